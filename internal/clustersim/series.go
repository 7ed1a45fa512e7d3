package clustersim

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// endpoint is one of the two paths that are scraped.
type endpoint int

const (
	cadvisor endpoint = iota
	kubeState
)

// family is a metric.
type family struct {
	name, help, kind string
	endpoint         endpoint
}

// The metrics there are, in the order in which they are exposed.
var families = [...]family{
	cpuFamily:        {"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "counter", cadvisor},
	memoryFamily:     {"container_memory_working_set_bytes", "Current working set in bytes.", "gauge", cadvisor},
	jobFamily:        {"kube_job_owner", "Information about the Job's owner.", "gauge", kubeState},
	podFamily:        {"kube_pod_owner", "Information about the Pod's owner.", "gauge", kubeState},
	replicaSetFamily: {"kube_replicaset_owner", "Information about the ReplicaSet's owner.", "gauge", kubeState},
}

const (
	cpuFamily = iota
	memoryFamily
	jobFamily
	podFamily
	replicaSetFamily
)

// row is one series for as long as it is exposed.
type row struct {
	family int
	labels []string // name, value, name, value...; ordered by name; values may be empty
	value  func(elapsed float64) float64
	text   []byte // the name and labels as they are exposed; made when first needed

	values []float64 // of the samples that were recorded
	from   int       // index of the first of them among the recorder's times
}

func newRow(family int, value func(elapsed float64) float64, labels ...string) *row {
	return &row{family: family, labels: labels, value: value, from: -1}
}

// one is the value of everything that kube-state-metrics says of owners.
func one(float64) float64 { return 1 }

// rows yields every series that is exposed now.
func (s *Sim) rows(yield func(*row) bool) {
	for _, n := range s.nodes {
		if !all(n.rows, yield) {
			return
		}
	}
	for _, w := range s.workloads {
		for _, p := range w.pods {
			if !all(p.rows, yield) || !all(p.state, yield) {
				return
			}
		}
		for _, p := range w.finished {
			if !all(p.state, yield) {
				return
			}
		}
		if !all(w.rows, yield) {
			return
		}
	}
}

func all(rows []*row, yield func(*row) bool) bool {
	for _, r := range rows {
		if !yield(r) {
			return false
		}
	}
	return true
}

// serve answers a scrape of an endpoint.
func (s *Sim) serve(e endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		body, err := s.expose(e)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(body) // Whoever hung up does not need to hear of it.
	}
}

// expose returns the text of an endpoint as of now.
func (s *Sim) expose(e endpoint) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.advance(s.opts.Clock()); err != nil {
		return nil, err
	}
	elapsed := s.at.Sub(s.tick).Seconds()
	var byFamily [len(families)][]byte
	for r := range s.rows {
		if families[r.family].endpoint != e {
			continue
		}
		out := &byFamily[r.family]
		*out = append(*out, r.exposed()...)
		*out = strconv.AppendFloat(*out, r.value(elapsed), 'g', -1, 64)
		*out = append(*out, '\n')
	}
	var body bytes.Buffer
	for i, f := range families {
		if f.endpoint == e {
			fmt.Fprintf(&body, "# HELP %s %s\n# TYPE %s %s\n%s", f.name, f.help, f.name, f.kind, byFamily[i])
		}
	}
	return body.Bytes(), nil
}

// exposed returns the name and labels of the row with a space behind them.
func (r *row) exposed() []byte {
	if r.text != nil {
		return r.text
	}
	r.text = append(r.text, families[r.family].name...)
	for i := 0; i < len(r.labels); i += 2 {
		r.text = append(r.text, "{,"[min(i, 1)])
		r.text = append(append(r.text, r.labels[i]...), '=')
		r.text = strconv.AppendQuote(r.text, r.labels[i+1])
	}
	r.text = append(r.text, '}', ' ')
	return r.text
}

// recorder keeps what Backfill returns.
type recorder struct {
	targets Targets
	times   []int64
	rows    []*row // in the order in which they appeared
	ended   []*row // since the last sample
}

func newRecorder(t Targets, samples int) *recorder {
	return &recorder{targets: t, times: make([]int64, 0, samples)}
}

// sample records the value of every row.
func (r *recorder) sample(s *Sim) {
	i, elapsed := len(r.times), s.at.Sub(s.tick).Seconds()
	r.times = append(r.times, s.at.UnixMilli())
	for row := range s.rows {
		if row.from < 0 {
			row.from = i
			r.rows = append(r.rows, row)
		}
		row.values = append(row.values, row.value(elapsed))
	}
	for _, row := range r.ended {
		row.values = append(row.values, staleMarker)
	}
	r.ended = r.ended[:0]
}

// end notes that rows are exposed no more. It may be called on nil.
func (r *recorder) end(rows ...*row) {
	if r == nil {
		return
	}
	for _, row := range rows {
		if row.from >= 0 { // Else it came and went between two samples.
			r.ended = append(r.ended, row)
		}
	}
}

// staleMarker is the NaN by which Prometheus ends a series.
var staleMarker = math.Float64frombits(0x7ff0000000000002)

func (r *recorder) finish() []Series {
	out := make([]Series, 0, len(r.rows))
	for _, row := range r.rows {
		n := len(row.values)
		out = append(out, Series{Labels: r.labels(row), Times: slices.Clip(r.times[row.from : row.from+n]), Values: row.values})
		row.values = nil
	}
	return out
}

// labels returns the labels of a row as they are stored after a scrape.
func (r *recorder) labels(row *row) map[string]string {
	out := map[string]string{"__name__": families[row.family].name}
	for i := 0; i < len(row.labels); i += 2 {
		if row.labels[i+1] != "" {
			out[row.labels[i]] = row.labels[i+1]
		}
	}
	if families[row.family].endpoint == cadvisor {
		maps.Copy(out, r.targets.CAdvisor)
	} else {
		maps.Copy(out, r.targets.KubeStateMetrics)
	}
	return out
}

// minutes is how the name of a CronJob's Job tells when it was due.
func minutes(t time.Time) string { return strconv.FormatInt(t.Unix()/60, 10) }
