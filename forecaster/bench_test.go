package forecaster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

// BenchmarkTick is a tick of one rule that has its history: a query of the
// newest steps, and a forecast of every series by persistence, so that what is
// measured is the manager and not a network.
func BenchmarkTick(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("workloads=%d", n), func(b *testing.B) {
			l := &load{workloads: map[model.LabelValue]func(int) float64{}}
			for i := range n {
				l.workloads[model.LabelValue(fmt.Sprintf("workload-%d", i))] = minutes
			}
			rule := testRule()
			rule.Lookback = 3 * time.Hour
			m, err := NewManager(ManagerOptions{Rules: []Rule{rule}, Query: l.query, Model: Persistence{}, Store: &Store{}})
			if err != nil {
				b.Fatal(err)
			}
			minute := 1000
			tick := func() {
				minute++
				if err := m.Tick(context.Background(), at(minute)); err != nil {
					b.Fatal(err)
				}
			}
			tick()
			b.ReportAllocs()
			for b.Loop() {
				tick()
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "series/s")
		})
	}
}
