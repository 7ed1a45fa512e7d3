// Package clustersim simulates what Prometheus would scrape of a small
// Kubernetes cluster: the container metrics of every kubelet (cAdvisor) and the
// owners of every pod (kube-state-metrics), for demonstrations and tests.
//
// A [Sim] runs in ticks of 15 seconds from its start. [Sim.Backfill] returns
// the history up to the present as series, and [Sim.Handler] serves the same
// series from there on, for a Prometheus to scrape. Equal options give equal
// samples, whenever and however often they are asked for.
package clustersim

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Tick is the time in which usage does not change and no pod comes or goes.
const Tick = 15 * time.Second

// Bounds of Options.History, and the default.
const (
	DefaultHistory = 72 * time.Hour
	MinHistory     = time.Hour
	MaxHistory     = 31 * 24 * time.Hour
)

// maxAdvance bounds what one call of Advance computes.
const maxAdvance = 31 * 24 * time.Hour

// Options of a Sim.
type Options struct {
	Seed    uint64
	Now     time.Time     // when the history ends; the present when zero
	History time.Duration // how long the cluster has run before Now; DefaultHistory when zero
	// Clock tells Handler the time of a scrape; time.Now when nil.
	Clock func() time.Time
}

func (o Options) withDefaults() (Options, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Now.IsZero() {
		o.Now = o.Clock()
	}
	o.Now = o.Now.UTC()
	o.History = cmp.Or(o.History, DefaultHistory)
	if o.History < MinHistory || o.History > MaxHistory {
		return o, fmt.Errorf("history: %s is out of range; want %s to %s", o.History, MinHistory, MaxHistory)
	}
	return o, nil
}

// Series is the samples of one time series: Values[i] at Times[i].
type Series struct {
	Labels map[string]string // includes __name__; no value is empty
	Times  []int64           // milliseconds since the Unix epoch, rising; shared between series
	Values []float64
}

// Workload is what a controller's pods use together.
type Workload struct {
	Namespace string
	Name      string
	Kind      string  // such as Deployment
	Pods      int     // that run
	CPU       float64 // cores
	Memory    float64 // bytes of working set
}

// Sim is a simulated cluster. It is safe for concurrent use.
type Sim struct {
	opts Options

	mu        sync.Mutex // guards what follows
	tick      time.Time  // the state is that of the tick that begins here
	at        time.Time  // how far the cluster has advanced; less than a Tick after tick
	nodes     []*node
	workloads []*workload
	record    *recorder // nil unless Backfill runs
}

// New returns a cluster as it was when its history began.
func New(o Options) (*Sim, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("simulated cluster: %w", err)
	}
	start := o.Now.Add(-o.History).Truncate(Tick)
	s := &Sim{opts: o, tick: start, at: start}
	rng := rand.New(rand.NewPCG(o.Seed, 0))
	for i := range nodeCount {
		s.nodes = append(s.nodes, newNode(i, rng))
	}
	for _, spec := range specs() {
		s.workloads = append(s.workloads, newWorkload(spec, o, s.nodes))
	}
	s.schedule()
	return s, nil
}

// Advance lets the cluster run until t. It does nothing when t is past already,
// and fails when t lies more than 31 days ahead.
func (s *Sim) Advance(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.advance(t)
}

func (s *Sim) advance(t time.Time) error {
	if t.Sub(s.at) > maxAdvance {
		return fmt.Errorf("simulated cluster: cannot advance from %s to %s; want at most %s at a time",
			s.at.Format(time.RFC3339), t.UTC().Format(time.RFC3339), maxAdvance)
	}
	for next := s.tick.Add(Tick); !next.After(t); next = next.Add(Tick) {
		s.burn()
		s.tick = next
		s.schedule()
	}
	if t.After(s.at) {
		s.at = t.UTC()
	}
	return nil
}

// burn adds the CPU of the current tick to the counters.
func (s *Sim) burn() {
	for p := range s.pods {
		for i := range p.containers {
			c := &p.containers[i]
			c.seconds += c.cores * Tick.Seconds()
		}
	}
	for _, n := range s.nodes {
		n.seconds += n.cores * Tick.Seconds()
	}
}

// schedule begins a tick: pods come and go, and share the load anew.
func (s *Sim) schedule() {
	for _, w := range s.workloads {
		w.schedule(s.tick, s.record)
	}
	for _, n := range s.nodes {
		n.cores, n.bytes = 0.15, 900*mebi // The system's own.
	}
	for p := range s.pods {
		p.node.cores += p.cores()
		p.node.bytes += p.bytes()
	}
}

// pods yields every pod that runs.
func (s *Sim) pods(yield func(*pod) bool) {
	for _, w := range s.workloads {
		for _, p := range w.pods {
			if !yield(p) {
				return
			}
		}
	}
}

// Workloads returns what every workload uses now, ordered by namespace and
// name. One without pods is among them, with zeros.
func (s *Sim) Workloads() []Workload {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Workload
	for _, w := range s.workloads {
		u := Workload{Namespace: w.spec.namespace, Name: w.spec.name, Kind: w.spec.kind, Pods: len(w.pods)}
		for _, p := range w.pods {
			u.CPU += p.cores() - p.containers[pause].cores
			u.Memory += p.bytes() - p.containers[pause].bytes
		}
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b Workload) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Targets holds the labels that scraping adds to the series of each path, such
// as job and instance. Given those of the live scrape, history and scraped
// samples make one series.
type Targets struct {
	CAdvisor         map[string]string
	KubeStateMetrics map[string]string
}

// Backfill lets the cluster run until Options.Now and returns the series that a
// scrape every so often would have given, from the start until then. A series
// that ended is closed by a stale marker, as Prometheus writes it. The cluster
// must not have advanced before; every must be a multiple of Tick.
func (s *Sim) Backfill(every time.Duration, targets Targets) ([]Series, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := s.opts.Now.Add(-s.opts.History).Truncate(Tick)
	if !s.at.Equal(start) {
		return nil, errors.New("simulated cluster: back-fill after it has advanced; want a new one")
	}
	if every < Tick || every%Tick != 0 {
		return nil, fmt.Errorf("simulated cluster: every: %s is no multiple of %s", every, Tick)
	}
	s.record = newRecorder(targets, int(s.opts.History/every)+1)
	defer func() { s.record = nil }()
	for t := start; !t.After(s.opts.Now); t = t.Add(every) {
		if err := s.advance(t); err != nil {
			return nil, err
		}
		s.record.sample(s)
	}
	return s.record.finish(), s.advance(s.opts.Now)
}

// Handler serves /metrics/cadvisor and /metrics/kube-state-metrics in the text
// format of Prometheus, as of the moment of the request.
func (s *Sim) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics/cadvisor", s.serve(cadvisor))
	mux.HandleFunc("GET /metrics/kube-state-metrics", s.serve(kubeState))
	return mux
}
