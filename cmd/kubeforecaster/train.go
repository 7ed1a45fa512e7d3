package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
	"github.com/kubeforecaster/kubeforecaster/forecaster/cnnlstm"
	"github.com/kubeforecaster/kubeforecaster/weights"
)

// Files that train writes.
const (
	weightsFile    = "base.safetensors"
	checkpointFile = "checkpoint.safetensors"
	trainingLog    = "training.jsonl"
)

// trainOptions are the flags of train.
type trainOptions struct {
	config string // file that model.dropout_rate is taken from
	data   []string
	out    string
	from   string
	output string
	fit    cnnlstm.Options
}

func newTrainCommand() *cobra.Command {
	o := trainOptions{fit: cnnlstm.DefaultOptions}
	cmd := &cobra.Command{
		Use:   "train --data FILE.csv.gz --out DIR [FILE.csv.gz]...",
		Short: "Fit weights to load traces",
		Long: `Train fits the network to load traces and writes DIR/` + weightsFile + `, which serve loads.

A trace is CSV in long form, plain or gzipped, with the header

    series,timestamp_s,cpu,memory[,requests]

Times are seconds since the Unix epoch, the step is any, an empty field is a missing sample. The
first 70 % of every series train, the next 15 % choose the best epoch, the rest is never read for
either. The state after every epoch is kept in DIR/` + checkpointFile + `, so that --resume goes on
with a stopped run, and its scores are added to DIR/` + trainingLog + `.`,
		Example: `  kubeforecaster train --data traces/a.csv.gz --data traces/b.csv.gz --out weights
  kubeforecaster train --out weights --from base.safetensors --epochs 3 traces/*.csv.gz`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.data = append(slices.Clone(o.data), args...)
			if !cmd.Flags().Changed("dropout") {
				c, err := loadConfig(o.config)
				if err != nil {
					return err
				}
				o.fit.Dropout = c.Model.DropoutRate
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.data, "data", nil, "load trace to learn from; may be repeated, and arguments count too")
	flags.StringVar(&o.config, "config.file", "", "configuration file; its model.dropout_rate is the default of --dropout")
	flags.StringVar(&o.out, "out", "", "directory to write to; it is made where it is missing")
	flags.StringVar(&o.from, "from", "", "weights to start from (default random ones)")
	flags.IntVar(&o.fit.Epochs, "epochs", o.fit.Epochs, "passes over the data")
	flags.IntVar(&o.fit.WindowsPerSource, "windows-per-file", o.fit.WindowsPerSource, "windows that every file gives to an epoch, about, so that none drowns the others")
	flags.Float64Var(&o.fit.Dropout, "dropout", o.fit.Dropout, "share of the LSTM's outputs that a gradient step leaves out")
	flags.Float64Var(&o.fit.LearnRate, "learning-rate", o.fit.LearnRate, "peak of the learning rate")
	flags.Uint64Var(&o.fit.Seed, "seed", o.fit.Seed, "seed of everything that is drawn at random")
	flags.BoolVar(&o.fit.Resume, "resume", false, "go on with the stopped run in the directory")
	flags.StringVarP(&o.output, "output", "o", "text", "format of the summary: text or json")
	return cmd
}

// summary is what train prints.
type summary struct {
	Weights    string                `json:"weights"`
	Version    string                `json:"version"`
	Parameters int                   `json:"parameters"`
	Series     int                   `json:"series"`
	Windows    int                   `json:"windows_per_epoch"`
	Epochs     int                   `json:"epochs"`
	BestEpoch  int                   `json:"best_epoch"`
	Valid      cnnlstm.Score         `json:"valid"`
	Sources    []cnnlstm.SourceScore `json:"sources"`
	Seconds    float64               `json:"seconds"`
}

func (o *trainOptions) check() error {
	switch {
	case len(o.data) == 0:
		return usageErrorf("--data is missing; want at least one CSV file")
	case o.out == "":
		return usageErrorf("--out is missing; want the directory to write to")
	case o.output != "text" && o.output != "json":
		return usageErrorf("--output: %q is unknown; want text or json", o.output)
	}
	o.fit.Checkpoint = filepath.Join(o.out, checkpointFile)
	if err := o.fit.Validate(); err != nil {
		return usageErrorf("%w", err)
	}
	return nil
}

func (o *trainOptions) run(ctx context.Context, stdout, stderr io.Writer) error {
	if err := o.check(); err != nil {
		return err
	}
	base, err := o.base()
	if err != nil {
		return err
	}
	ds, err := forecaster.ReadDataset(ctx, o.data...)
	if err != nil {
		return err
	}
	log, err := o.openLog()
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // Every line is checked as it is written.
	began := time.Now()
	m, report, err := o.train(ctx, base, ds, log, stderr)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("stopped; --resume goes on after the last whole epoch: %w", err)
	}
	if err != nil {
		return err
	}
	s, err := o.save(m, base, report, ds)
	if err != nil {
		return err
	}
	s.Seconds = time.Since(began).Round(time.Second / 10).Seconds()
	return s.print(stdout, o.output)
}

// base reads the weights to start from, if any.
func (o *trainOptions) base() (*cnnlstm.Model, error) {
	if o.from == "" {
		return nil, nil
	}
	f, err := weights.ReadFile(o.from)
	if err != nil {
		return nil, err
	}
	m, err := cnnlstm.New(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.from, err)
	}
	return m, nil
}

// openLog makes the directory and opens the log in it, so that a directory that
// cannot be written to is found before hours of work.
func (o *trainOptions) openLog() (*os.File, error) {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return nil, fmt.Errorf("--out: %w", err)
	}
	mode := os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	if o.fit.Resume {
		mode = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	}
	f, err := os.OpenFile(filepath.Join(o.out, trainingLog), mode, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--out: %w", err)
	}
	return f, nil
}

func (o *trainOptions) train(ctx context.Context, base *cnnlstm.Model, ds forecaster.Dataset, log, stderr io.Writer) (*cnnlstm.Model, cnnlstm.Report, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	opts := o.fit
	if isTerminal(stderr) {
		opts.Progress = newBar(stderr).show
	}
	opts.Epoch = func(e cnnlstm.Epoch) {
		fmt.Fprintf(stderr, "epoch %d of %d: training loss %.4f, validation loss %.4f (persistence %.4f), %.0f s\n",
			e.Epoch, opts.Epochs, e.Loss, e.Valid.Pinball, e.Valid.Persistence, e.Seconds)
		if err := json.NewEncoder(log).Encode(e); err != nil {
			stop(fmt.Errorf("write log: %w", err)) // A full disk must not end as success.
		}
	}
	t, err := cnnlstm.NewTrainer(opts)
	if err != nil {
		return nil, cnnlstm.Report{}, err
	}
	m, report, err := t.Fit(ctx, base, ds)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return nil, report, cause
	}
	return m, report, err
}

// save writes the weights with what there is to know about them, and removes the
// checkpoint, which is of no use to a run that is over.
func (o *trainOptions) save(m, base *cnnlstm.Model, r cnnlstm.Report, ds forecaster.Dataset) (summary, error) {
	s := summary{
		Weights: filepath.Join(o.out, weightsFile), Version: m.Version(), Parameters: cnnlstm.Parameters(), Series: len(ds.Histories),
		Windows: r.Epochs[r.Best-1].Windows, Epochs: len(r.Epochs), BestEpoch: r.Best, Valid: r.Valid, Sources: r.Sources,
	}
	scores, err := json.Marshal(r.Valid)
	if err != nil {
		return s, err
	}
	from := "random"
	if base != nil {
		from = base.Version()
	}
	extra := map[string]string{
		"data": strings.Join(sources(ds), ","), "from": from, "seed": strconv.FormatUint(o.fit.Seed, 10),
		"epochs": strconv.Itoa(o.fit.Epochs), "best_epoch": strconv.Itoa(r.Best), "windows_per_file": strconv.Itoa(o.fit.WindowsPerSource),
		"dropout": fmt.Sprint(o.fit.Dropout), "learning_rate": fmt.Sprint(o.fit.LearnRate), "valid": string(scores),
	}
	if err := weights.WriteFile(s.Weights, m.File(extra)); err != nil {
		return s, err
	}
	if err := os.Remove(o.fit.Checkpoint); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("remove checkpoint: %w", err)
	}
	return s, nil
}

func sources(ds forecaster.Dataset) []string {
	var names []string
	for _, h := range ds.Histories {
		if !slices.Contains(names, h.Source) {
			names = append(names, h.Source)
		}
	}
	return names
}

func (s summary) print(w io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "weights\t%s\n", s.Weights)
	fmt.Fprintf(t, "version\t%s\n", s.Version)
	fmt.Fprintf(t, "parameters\t%d\n", s.Parameters)
	fmt.Fprintf(t, "series\t%d\n", s.Series)
	fmt.Fprintf(t, "windows\t%d an epoch, %d to validate\n", s.Windows, s.Valid.Windows)
	fmt.Fprintf(t, "epochs\t%d, the best %d\n", s.Epochs, s.BestEpoch)
	fmt.Fprintf(t, "took\t%.1f s\n", s.Seconds)
	fmt.Fprintf(t, "\nvalidation\twindows\tpinball\tpersistence\tmedian\tpersistence\tcoverage of 0.9\n")
	for _, row := range append(s.Sources, cnnlstm.SourceScore{Source: "all", Score: s.Valid}) {
		fmt.Fprintf(t, "%s\t%d\t%.4f\t%.4f\t%.4f\t%.4f\t%.3f\n", row.Source, row.Windows, row.Pinball, row.Persistence, row.Median, row.PersistenceMedian, row.Coverage)
	}
	return t.Flush()
}

// isTerminal reports whether w is shown to a person, who is served by a bar that
// moves. A log keeps plain lines.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// bar shows the progress of each epoch.
type bar struct {
	w     io.Writer
	epoch int
	bar   *progressbar.ProgressBar
}

func newBar(w io.Writer) *bar { return &bar{w: w} }

func (b *bar) show(p cnnlstm.Progress) {
	if p.Epoch != b.epoch {
		b.epoch = p.Epoch
		b.bar = progressbar.NewOptions(p.Steps, progressbar.OptionSetWriter(b.w), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(time.Second/5))
	}
	b.bar.Describe(fmt.Sprintf("epoch %d of %d, loss %.4f", p.Epoch, p.Epochs, p.Loss))
	_ = b.bar.Set(p.Step) // A bar that cannot be drawn must not stop the fit.
}
