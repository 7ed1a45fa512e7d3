package cnnlstm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
	"github.com/kubeforecaster/kubeforecaster/weights"
)

// Keys of the metadata of a weights file that this package reads and writes.
const (
	presetKey  = "preset"
	levelsKey  = "levels"
	versionKey = "version"
)

// Preset names the network and what goes into it. Weights of another preset do
// not fit.
const Preset = "cnnlstm-1"

// batches are the sizes that graphs are built for, rising. One window is cheap
// and a thousand are few runs.
var batches = []int{1, 8, 64}

// Model is the network with its weights. It is a [forecaster.Model]: it does not
// change, and is safe for concurrent use.
type Model struct {
	data     [][]float32 // in the order of parameters
	metadata map[string]string
	version  string
	// graphs are lent to one call at a time and built when there is none. Idle
	// ones are left to the garbage collector.
	graphs map[int]*sync.Pool
}

var _ forecaster.Model = (*Model)(nil)

// Load makes a model of the content of a weights file.
func Load(data []byte) (*Model, error) {
	f, err := weights.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("load weights: %w", err)
	}
	return New(f)
}

// New makes a model of the weights in f, which must not change afterwards. The
// error says which tensor or which metadata does not fit the network.
func New(f *weights.File) (*Model, error) {
	data, err := dataOfFile(f, "")
	if err != nil {
		return nil, fmt.Errorf("load weights: %w", err)
	}
	if len(f.Tensors) != len(data) {
		return nil, fmt.Errorf("load weights: the file holds %d tensors; want %d", len(f.Tensors), len(data))
	}
	if err := checkMetadata(f.Metadata, versionOf(data)); err != nil {
		return nil, fmt.Errorf("load weights: %w", err)
	}
	m := &Model{data: data, metadata: maps.Clone(f.Metadata), version: versionOf(data), graphs: map[int]*sync.Pool{}}
	for _, n := range batches {
		m.graphs[n] = &sync.Pool{}
	}
	// The first graph is built here, so that weights that cannot run are found
	// before they are in service.
	g, err := newGraph(1, data, false)
	if err != nil {
		return nil, fmt.Errorf("load weights: %w", err)
	}
	m.graphs[1].Put(g)
	return m, nil
}

func checkMetadata(m map[string]string, version string) error {
	if m[presetKey] != Preset {
		return fmt.Errorf("metadata %s is %q; want %q", presetKey, m[presetKey], Preset)
	}
	if want := levelsText(); m[levelsKey] != want {
		return fmt.Errorf("metadata %s is %q; want %q", levelsKey, m[levelsKey], want)
	}
	if m[versionKey] != version {
		return fmt.Errorf("metadata %s is %q, but the tensors are those of %q; the file is damaged", versionKey, m[versionKey], version)
	}
	return nil
}

func levelsText() string {
	var out []string
	for _, l := range forecaster.Levels() {
		out = append(out, strconv.FormatFloat(l, 'g', -1, 64))
	}
	return strings.Join(out, ",")
}

// versionOf names weights by their content.
func versionOf(data [][]float32) string {
	h, buf := sha256.New(), []byte(nil)
	for i, p := range parameters() {
		buf = append(buf[:0], p.name...)
		for _, v := range data[i] {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
		}
		h.Write(buf)
	}
	return "cnnlstm-" + hex.EncodeToString(h.Sum(nil))[:12]
}

// File returns the weights as they are stored, with extra metadata.
func (m *Model) File(extra map[string]string) *weights.File {
	f := &weights.File{Metadata: maps.Clone(m.metadata), Tensors: map[string]weights.Tensor{}}
	maps.Copy(f.Metadata, extra)
	tensorsOf(m.data, "", f.Tensors)
	for name, t := range f.Tensors {
		f.Tensors[name] = weights.Tensor{Shape: t.Shape, Data: slices.Clone(t.Data)}
	}
	return f
}

// fileOf is the file of data with the metadata that New asks for.
func fileOf(data [][]float32) *weights.File {
	f := &weights.File{
		Metadata: map[string]string{presetKey: Preset, levelsKey: levelsText(), versionKey: versionOf(data)},
		Tensors:  map[string]weights.Tensor{},
	}
	tensorsOf(data, "", f.Tensors)
	return f
}

// Version implements [forecaster.Model]: "cnnlstm-" and 12 digits of the
// SHA-256 of the weights.
func (m *Model) Version() string { return m.version }

// Shape implements [forecaster.Model]. What a model reads of a window reaches
// back a week, though it looks at every step only in the newest hour of a
// one-minute series; yesterday and last week may be missing.
func (m *Model) Shape() forecaster.Shape {
	return forecaster.Shape{
		MinSteps: minSteps,
		Steps:    int(week/forecaster.MinStep) + before + 1,
		Horizon:  horizon,
		Levels:   forecaster.Levels(),
	}
}

// Predict implements [forecaster.Model]. It uses up to one core per 64 windows.
// The forecast of a window does not depend, not by a bit, on the windows beside
// it.
func (m *Model) Predict(ctx context.Context, ws []forecaster.Window) ([]forecaster.Forecast, error) {
	if err := check(m.Shape(), ws); err != nil {
		return nil, err
	}
	out := make([]forecaster.Forecast, len(ws))
	workers, working := errgroup.WithContext(ctx)
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for at := 0; at < len(ws); {
		size := batchFor(len(ws) - at)
		end := min(at+size, len(ws))
		part, into := ws[at:end], out[at:end]
		workers.Go(func() error { return m.predict(working, size, part, into) })
		at = end
	}
	if err := workers.Wait(); err != nil {
		return nil, err
	}
	return out, ctx.Err()
}

// check refuses windows that the network has no answer for.
func check(s forecaster.Shape, ws []forecaster.Window) error {
	if err := s.CheckWindows(ws); err != nil {
		return err
	}
	for _, w := range ws {
		if w.Step < time.Second || w.With != nil && len(w.With) != len(w.Values) {
			return fmt.Errorf("window of %v has a step of %s and %d values beside %d; want a step of a second or more and equal lengths", w.Labels, w.Step, len(w.With), len(w.Values))
		}
		if w.Observed > len(w.Values) || math.IsNaN(w.Newest()) {
			return fmt.Errorf("window of %v does not end with an observed sample; want one that NewWindow made", w.Labels)
		}
	}
	return nil
}

// batchFor is the size of graph for the next windows, of which n are left: the
// largest that they fill, or a larger one where that is less work than filling
// small ones.
func batchFor(n int) int {
	for i := len(batches) - 1; i > 0; i-- {
		if 2*n > batches[i] {
			return batches[i]
		}
	}
	return batches[0]
}

func (m *Model) predict(ctx context.Context, size int, ws []forecaster.Window, out []forecaster.Forecast) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g, err := m.borrow(size)
	if err != nil {
		return err
	}
	defer m.graphs[size].Put(g)
	scales := make([]scale, len(ws))
	for i, w := range ws {
		scales[i] = encode(w, g.x[i*steps*channels:][:steps*channels], g.context[i*contextLen:][:contextLen])
	}
	// What a former run left in the places beyond is computed and not read.
	if err := g.run(); err != nil {
		return err
	}
	for i, w := range ws {
		y := g.quantiles()[i*outputs():][:outputs()]
		if out[i], err = m.forecast(w, scales[i], y); err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) borrow(size int) (*graph, error) {
	if g, ok := m.graphs[size].Get().(*graph); ok {
		return g, nil
	}
	return newGraph(size, m.data, false)
}

var errNotFinite = errors.New("the network's answer is not a number; its weights are too large")

// forecast turns the network's y, by step and then by level, into the unit of
// the window.
func (m *Model) forecast(w forecaster.Window, s scale, y []float32) (forecaster.Forecast, error) {
	levels := forecaster.Levels()
	f := forecaster.Forecast{
		Labels: w.Labels, Origin: w.Origin, Step: w.Step, Levels: levels,
		Quantiles: make([][]float64, len(levels)), Observed: w.Newest(), Model: m.version,
	}
	for k := range levels {
		f.Quantiles[k] = make([]float64, horizon)
		for j := range horizon {
			f.Quantiles[k][j] = s.unit(y[j*len(levels)+k])
			if math.IsNaN(f.Quantiles[k][j]) {
				return f, fmt.Errorf("forecast %v: %w", w.Labels, errNotFinite)
			}
		}
	}
	return f, nil
}
