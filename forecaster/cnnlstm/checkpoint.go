package cnnlstm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
	"github.com/kubeforecaster/kubeforecaster/weights"
)

// Keys and prefixes of a checkpoint.
const (
	fitKey      = "fit"
	stateKey    = "state"
	bestPrefix  = "best."
	meanPrefix  = "mean."
	powerPrefix = "power."
)

// state is what a checkpoint holds beside the tensors.
type state struct {
	Report Report `json:"report"`
	Taken  int    `json:"taken"` // solver steps
}

// keyOf tells fits apart: a checkpoint is of use only to a fit with the same
// options, start and data.
func keyOf(o Options, base *Model, ds forecaster.Dataset) string {
	from, samples := "random", 0
	if base != nil {
		from = base.version
	}
	for _, h := range ds.Histories {
		samples += len(h.Series.Values)
	}
	return fmt.Sprintf("%s from %s on %d series of %d samples split %v: epochs %d, windows %d and %d, batch %d, rate %v, decay %v, dropout %v, norm %v, patience %d, seed %d",
		Preset, from, len(ds.Histories), samples, ds.Split, o.Epochs, o.WindowsPerSource, o.ValidPerSource, o.Batch, o.LearnRate, o.WeightDecay, o.Dropout, o.MaxNorm, o.Patience, o.Seed)
}

// save writes the checkpoint, if one is wanted.
func (f *fit) save() error {
	if f.opts.Checkpoint == "" {
		return nil
	}
	text, err := json.Marshal(state{Report: f.Report, Taken: f.solver.taken})
	if err != nil {
		return err
	}
	file := &weights.File{Metadata: map[string]string{fitKey: f.key, stateKey: string(text)}, Tensors: map[string]weights.Tensor{}}
	for prefix, data := range f.tensors() {
		tensorsOf(*data, prefix, file.Tensors)
	}
	if err := weights.WriteFile(f.opts.Checkpoint, file); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

func (f *fit) tensors() map[string]*[][]float32 {
	return map[string]*[][]float32{"": &f.data, bestPrefix: &f.best, meanPrefix: &f.solver.mean, powerPrefix: &f.solver.power}
}

// resume reads the checkpoint, if there is one and it is wanted.
func (f *fit) resume() error {
	if !f.opts.Resume {
		return nil
	}
	file, err := weights.ReadFile(f.opts.Checkpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if err := f.restore(file); err != nil {
		return fmt.Errorf("resume: %s: %w", f.opts.Checkpoint, err)
	}
	return nil
}

func (f *fit) restore(file *weights.File) error {
	if file.Metadata[fitKey] != f.key {
		return fmt.Errorf("the checkpoint is of another fit (%q); want the same options and data (%q), or start anew without it", file.Metadata[fitKey], f.key)
	}
	var s state
	if err := json.Unmarshal([]byte(file.Metadata[stateKey]), &s); err != nil {
		return fmt.Errorf("metadata %s: %w", stateKey, err)
	}
	for prefix, data := range f.tensors() {
		var err error
		if *data, err = dataOfFile(file, prefix); err != nil {
			return err
		}
	}
	f.Report, f.solver.taken = s.Report, s.Taken
	return nil
}
