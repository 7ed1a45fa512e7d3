package clustersim

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// now is a Tuesday afternoon, between two ticks.
var now = time.Date(2026, 11, 24, 15, 20, 7, 0, time.UTC)

func newSim(t testing.TB, history time.Duration) (*Sim, *time.Time) {
	t.Helper()
	clock := now
	s, err := New(Options{Seed: 1, Now: now, History: history, Clock: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	return s, &clock
}

func backfill(t testing.TB, s *Sim, every time.Duration) []Series {
	t.Helper()
	out, err := s.Backfill(every, Targets{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func isStale(v float64) bool { return math.Float64bits(v) == math.Float64bits(staleMarker) }

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Options{History: time.Minute}); err == nil || !strings.Contains(err.Error(), "history: 1m0s is out of range") {
		t.Errorf("err = %v; want one that names the history", err)
	}
	s, _ := newSim(t, MinHistory)
	if _, err := s.Backfill(20*time.Second, Targets{}); err == nil {
		t.Error("back-fill every 20s is accepted; want a multiple of the tick")
	}
	backfill(t, s, time.Minute)
	if _, err := s.Backfill(time.Minute, Targets{}); err == nil {
		t.Error("a second back-fill is accepted")
	}
	if err := s.Advance(now.Add(32 * 24 * time.Hour)); err == nil {
		t.Error("advance by 32 days is accepted")
	}
	if err := s.Advance(now.Add(-time.Hour)); err != nil {
		t.Errorf("advance into the past: %v; want nothing to happen", err)
	}
}

func TestHistoryIsLight(t *testing.T) {
	s, _ := newSim(t, DefaultHistory)
	samples := 0
	for _, one := range backfill(t, s, time.Minute) {
		samples += len(one.Values)
	}
	if samples < 500_000 || samples > 1_000_000 {
		t.Errorf("three days by the minute are %d samples; want at most a million", samples)
	}
}

func TestEveryKindOfWorkloadRuns(t *testing.T) {
	s, _ := newSim(t, DefaultHistory)
	if err := s.Advance(now.Truncate(30 * time.Minute).Add(32 * time.Minute)); err != nil { // While the CronJob runs.
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, w := range s.Workloads() {
		if w.Pods == 0 || w.CPU <= 0 || w.Memory <= 0 {
			t.Errorf("%+v uses nothing", w)
		}
		if w.Namespace != "shop" && w.Namespace != "batch" {
			t.Errorf("%+v is in another namespace", w)
		}
		got[w.Kind]++
	}
	want := map[string]int{deployment: 10, statefulSet: 1, daemonSet: 1, cronJob: 1, job: 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds differ (-want +got):\n%s", diff)
	}
}

func TestSeriesAreWellFormed(t *testing.T) {
	s, _ := newSim(t, 26*time.Hour)
	seen := map[string]bool{}
	start := now.Add(-26 * time.Hour).Truncate(Tick).UnixMilli()
	for _, one := range backfill(t, s, time.Minute) {
		key := fmt.Sprint(one.Labels)
		if seen[key] {
			t.Errorf("%s is there twice", key)
		}
		seen[key] = true
		if len(one.Times) != len(one.Values) || len(one.Values) == 0 {
			t.Fatalf("%s has %d times and %d values", key, len(one.Times), len(one.Values))
		}
		last := len(one.Values) - 1
		counter := one.Labels["__name__"] == "container_cpu_usage_seconds_total"
		for i, v := range one.Values {
			if (one.Times[i]-start)%60_000 != 0 || i > 0 && one.Times[i]-one.Times[i-1] != 60_000 {
				t.Fatalf("%s: sample %d is off the grid", key, i)
			}
			if isStale(v) && i == last && one.Times[i] < now.UnixMilli() {
				continue
			}
			if !(v >= 0) || math.IsInf(v, 0) || counter && i > 0 && v < one.Values[i-1] {
				t.Fatalf("%s: sample %d is %v after %v", key, i, v, one.Values[max(i, 1)-1])
			}
		}
		if newest := one.Times[last]; newest < now.Add(-time.Minute).UnixMilli() && !isStale(one.Values[last]) {
			t.Errorf("%s ended without a stale marker", key)
		}
	}
}

func TestNamesLookReal(t *testing.T) {
	const random = `[bcdfghjklmnpqrstvwxz2456789]`
	shapes := map[string]*regexp.Regexp{
		"frontend":  regexp.MustCompile(`^frontend-` + random + `{8,10}-` + random + `{5}$`),
		"postgres":  regexp.MustCompile(`^postgres-[01]$`),
		"log-agent": regexp.MustCompile(`^log-agent-` + random + `{5}$`),
		"report":    regexp.MustCompile(`^report-29\d{6}-` + random + `{5}$`),
		"import":    regexp.MustCompile(`^import-` + random + `{5}$`),
	}
	s, _ := newSim(t, DefaultHistory)
	pods := map[string]map[string]bool{}
	for _, one := range backfill(t, s, time.Minute) {
		name := one.Labels["pod"]
		for workload := range shapes {
			if strings.HasPrefix(name, workload+"-") {
				if pods[workload] == nil {
					pods[workload] = map[string]bool{}
				}
				pods[workload][name] = true
			}
		}
	}
	for workload, shape := range shapes {
		for name := range pods[workload] {
			if !shape.MatchString(name) {
				t.Errorf("pod %s does not match %s", name, shape)
			}
		}
	}
	got := map[string]int{}
	for workload := range shapes {
		got[workload] = len(pods[workload])
	}
	// Three replicas before, between and after two rollouts; three nodes before
	// and after one; 144 half hours.
	if diff := cmp.Diff(map[string]int{"frontend": 9, "postgres": 2, "log-agent": 6, "report": 144, "import": 1}, got); diff != "" {
		t.Errorf("numbers of pods differ (-want +got):\n%s", diff)
	}
}

func TestTheNewWorkloadHasTwentyMinutesOfHistory(t *testing.T) {
	s, _ := newSim(t, 2*time.Hour)
	oldest := int64(math.MaxInt64)
	for _, one := range backfill(t, s, time.Minute) {
		if strings.HasPrefix(one.Labels["pod"], "reviews-") {
			oldest = min(oldest, one.Times[0])
		}
	}
	if age := now.Sub(time.UnixMilli(oldest)); age < 18*time.Minute || age > 20*time.Minute+Tick {
		t.Errorf("the new workload is %s old; want 20m", age)
	}
}

func TestPodsSumToTheirWorkloads(t *testing.T) {
	s, clock := newSim(t, 30*time.Hour)
	*clock = now.Truncate(30 * time.Minute).Add(32 * time.Minute)
	before := scrape(t, s, "/metrics/cadvisor")
	want := map[string]float64{}
	for _, w := range s.Workloads() {
		want[w.Name] = w.CPU
	}
	*clock = clock.Add(10 * time.Second) // Within the same tick.
	after := scrape(t, s, "/metrics/cadvisor")
	got := map[string]float64{}
	for labels, v := range after {
		l := parse(t, labels)
		if l["__name__"] == "container_cpu_usage_seconds_total" && l["container"] != "" && l["container"] != "POD" {
			for name := range want {
				if strings.HasPrefix(l["pod"], name+"-") {
					got[name] += (v - before[labels]) / 10
				}
			}
		}
	}
	for name := range want {
		if math.Abs(got[name]-want[name]) > 1e-6*(1+want[name]) {
			t.Errorf("%s burns %v cores; want %v", name, got[name], want[name])
		}
	}
}

func TestThePodsRowHoldsTheSumOfItsContainers(t *testing.T) {
	s, _ := newSim(t, MinHistory)
	pods, sums := map[string]float64{}, map[string]float64{}
	for labels, v := range scrape(t, s, "/metrics/cadvisor") {
		l := parse(t, labels)
		switch {
		case l["__name__"] != "container_memory_working_set_bytes" || l["pod"] == "":
		case l["image"] == "":
			pods[l["pod"]] += v
		default:
			sums[l["pod"]] += v
		}
	}
	if diff := cmp.Diff(pods, sums); diff != "" || len(pods) < 20 {
		t.Errorf("%d pods; rows of pods and their containers differ:\n%s", len(pods), diff)
	}
}

func TestReplicasFollowTheLoad(t *testing.T) {
	s, _ := newSim(t, 30*time.Hour)
	fewest, most := math.MaxInt, 0
	for at := now.Add(-24 * time.Hour); at.Before(now); at = at.Add(10 * time.Minute) {
		if err := s.Advance(at); err != nil {
			t.Fatal(err)
		}
		for _, w := range s.Workloads() {
			if w.Name != "cart" {
				continue
			}
			fewest, most = min(fewest, w.Pods), max(most, w.Pods)
			if perPod := w.CPU / float64(w.Pods); perPod > 0.6+1e-9 || w.Pods > 2 && perPod < 0.2 {
				t.Errorf("at %s %d pods use %v cores each", at, w.Pods, perPod)
			}
		}
	}
	if fewest > 3 || most < 7 {
		t.Errorf("between %d and %d pods; want a scale-out", fewest, most)
	}
}

func TestTheLeakEndsInARestart(t *testing.T) {
	s, _ := newSim(t, 36*time.Hour)
	runs := map[string][]float64{}
	for _, one := range backfill(t, s, time.Minute) {
		if strings.HasPrefix(one.Labels["pod"], "recommender-") && one.Labels["container"] == "app" &&
			one.Labels["__name__"] == "container_memory_working_set_bytes" {
			runs[one.Labels["id"]] = slices.DeleteFunc(one.Values, isStale)
		}
	}
	if len(runs) < 4 {
		t.Fatalf("%d runs in 36 hours; want a restart every few hours", len(runs))
	}
	for id, values := range runs {
		if first, most := values[0], slices.Max(values); first > 250*mebi || most > 1024*mebi {
			t.Errorf("%s: from %v to %v bytes; want a rise from below 250 MiB to at most 1 GiB", id, first, most)
		}
	}
}

func TestHistoryGoesOnLive(t *testing.T) {
	targets := Targets{
		CAdvisor:         map[string]string{"job": "kubelet", "instance": "a"},
		KubeStateMetrics: map[string]string{"job": "ksm", "instance": "b"},
	}
	s, clock := newSim(t, 2*time.Hour)
	series, err := s.Backfill(Tick, targets)
	if err != nil {
		t.Fatal(err)
	}
	*clock = now.Add(5 * time.Second)
	live := map[string]float64{}
	for path, extra := range map[string]map[string]string{"/metrics/cadvisor": targets.CAdvisor, "/metrics/kube-state-metrics": targets.KubeStateMetrics} {
		for labels, v := range scrape(t, s, path) {
			l := parse(t, labels)
			maps.DeleteFunc(l, func(_, v string) bool { return v == "" })
			maps.Copy(l, extra)
			live[fmt.Sprint(l)] = v
		}
	}
	open := 0
	for _, one := range series {
		newest := one.Values[len(one.Values)-1]
		if isStale(newest) {
			continue
		}
		open++
		v, ok := live[fmt.Sprint(one.Labels)]
		if !ok {
			t.Errorf("%v is not scraped", one.Labels)
			continue
		}
		// No pod burns more than 4 cores, no node more than 20.
		if one.Labels["__name__"] == "container_cpu_usage_seconds_total" && (v < newest || v > newest+20*20) {
			t.Errorf("%v goes on from %v with %v", one.Labels, newest, v)
		}
	}
	if open != len(live) {
		t.Errorf("%d series are open and %d are scraped", open, len(live))
	}
}

func TestEqualSeedsGiveEqualSamples(t *testing.T) {
	a, clockA := newSim(t, 3*time.Hour)
	b, clockB := newSim(t, 3*time.Hour)
	*clockA, *clockB = now.Add(time.Hour), now.Add(time.Hour)
	backfill(t, a, time.Minute)
	for at := now; at.Before(*clockB); at = at.Add(7 * time.Second) {
		if err := b.Advance(at); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(scrape(t, a, "/metrics/cadvisor"), scrape(t, b, "/metrics/cadvisor")); diff != "" {
		t.Errorf("samples depend on how often they are asked for:\n%s", diff)
	}
	other, err := New(Options{Seed: 2, Now: now, History: 3 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if cmp.Equal(a.Workloads(), other.Workloads()) {
		t.Error("another seed gives the same load")
	}
}

func TestAClockThatRunsAwayIsAnError(t *testing.T) {
	s, clock := newSim(t, MinHistory)
	*clock = now.Add(365 * 24 * time.Hour)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics/cadvisor", http.NoBody))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "cannot advance") {
		t.Errorf("%d %s; want 503 and why", w.Code, w.Body)
	}
}

// scrape returns the samples of a path by name and labels. It fails when the
// text does not parse or holds a series twice.
func scrape(t *testing.T, s *Sim, path string) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	found, err := parser.TextToMetricFamilies(bytes.NewReader(w.Body.Bytes()))
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	out := map[string]float64{}
	for name, f := range found {
		for _, m := range f.GetMetric() {
			var key strings.Builder
			key.WriteString(name)
			for _, l := range m.GetLabel() {
				key.WriteString("\n" + l.GetName() + "=" + l.GetValue())
			}
			if _, ok := out[key.String()]; ok {
				t.Errorf("GET %s: %s is there twice", path, key.String())
			}
			out[key.String()] = m.GetCounter().GetValue() + m.GetGauge().GetValue() // One of them is nil, and 0.
		}
	}
	return out
}

// parse turns a key of scrape into labels.
func parse(t *testing.T, key string) map[string]string {
	t.Helper()
	lines := strings.Split(key, "\n")
	out := map[string]string{"__name__": lines[0]}
	for _, line := range lines[1:] {
		name, v, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("no label: %q", line)
		}
		out[name] = v
	}
	return out
}

func BenchmarkBackfillThreeDays(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		s, _ := newSim(b, DefaultHistory)
		backfill(b, s, time.Minute)
	}
}

func BenchmarkScrape(b *testing.B) {
	s, clock := newSim(b, MinHistory)
	h := s.Handler()
	b.ReportAllocs()
	for b.Loop() {
		*clock = clock.Add(Tick)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics/cadvisor", http.NoBody))
	}
}
