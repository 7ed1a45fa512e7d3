package forecaster

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// Bounds of a dataset file. They are far above real traces and keep a wrong file
// from taking all memory.
const (
	maxRows   = 50_000_000
	maxSeries = 200_000
	maxGrid   = 10_000_000  // steps of one series, gaps included
	maxPoints = 100_000_000 // of all grids of a file
	maxLine   = 64 << 10    // bytes
	maxTime   = 1 << 34     // seconds since the epoch; the year 2514
)

const (
	seriesColumn = "series"
	timeColumn   = "timestamp_s"
)

// metricColumns are the metrics that a dataset may hold.
var metricColumns = []string{"cpu", "memory", "requests"}

// companions says which metric of the same series is known beside another.
var companions = map[string]string{"cpu": "memory", "memory": "cpu"}

// ReadCSV reads series in long form, plain or gzipped, a row per series and
// time:
//
//	series,timestamp_s,cpu,memory[,requests]
//
// Times are whole seconds since the Unix epoch and rise within a series; series
// may alternate. An empty field is a missing sample. Each metric that a series
// has any sample of becomes a History labelled with the metric's name and the
// series; CPU and memory of one series are companions.
//
// The step of a series is the median distance of its rows, and every row is put
// on the nearest point of the grid that starts at the first one (the later row
// wins where two meet). Start is then moved back to a multiple of the step, by
// less than one step, as [Series] promises: for a trace whose times are no such
// multiples all times are earlier than in the file by that much. A series with
// fewer than two rows has no step and is left out.
//
// Errors name the line and say what would be right.
func ReadCSV(ctx context.Context, r io.Reader) ([]History, error) {
	plain, err := decompress(r)
	if err != nil {
		return nil, err
	}
	t := table{bySeries: map[string]*rows{}}
	if err := t.read(ctx, plain); err != nil {
		return nil, err
	}
	return t.histories()
}

func (t *table) histories() (out []History, err error) {
	points := 0
	for _, s := range t.order {
		hs, err := s.histories()
		if err != nil {
			return nil, err
		}
		for _, h := range hs {
			points += len(h.Series.Values)
		}
		if points > maxPoints {
			return nil, fmt.Errorf("line %d: with series %q the file spans more than %d steps, gaps included; want a smaller one", s.line, s.name, maxPoints)
		}
		out = append(out, hs...)
	}
	return out, nil
}

func decompress(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, _ := b.Peek(2) // A shorter file is no gzip and fails at its header.
	if !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return &boundedLines{r: b}, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("the gzip header is broken: %w", err)
	}
	return &boundedLines{r: z}, nil
}

// boundedLines fails when a line is longer than maxLine, which the CSV reader
// would gather in memory.
type boundedLines struct {
	r      io.Reader
	length int
}

func (b *boundedLines) Read(p []byte) (int, error) {
	n, err := b.r.Read(p[:min(len(p), maxLine)])
	if i := bytes.LastIndexByte(p[:n], '\n'); i >= 0 {
		b.length = n - i - 1
	} else {
		b.length += n
	}
	if b.length > maxLine {
		return 0, fmt.Errorf("a line is longer than %d bytes; this is no dataset", maxLine)
	}
	return n, err
}

// table gathers the rows of a file by series.
type table struct {
	bySeries map[string]*rows
	order    []*rows
	metrics  []string // of the columns after the first two
	count    int
}

// rows are those of one series.
type rows struct {
	name    string
	line    int // of the first
	metrics []string
	times   []int64
	values  [][]float64 // by metric
}

// byteOrderMark is what some programs write before UTF-8 text.
const byteOrderMark = "\ufeff"

func (t *table) read(ctx context.Context, r io.Reader) error {
	text := bufio.NewReader(r)
	if mark, err := text.Peek(len(byteOrderMark)); err == nil && string(mark) == byteOrderMark {
		_, _ = text.Discard(len(mark)) // They are in the buffer.
	}
	c := csv.NewReader(text)
	c.ReuseRecord = true
	if err := t.header(c); err != nil {
		return err
	}
	for {
		record, err := c.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return rowError(err, t.metrics, t.count+2)
		}
		line, _ := c.FieldPos(0)
		if err := t.row(record, line); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if t.count++; t.count%10_000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// rowError says what is wrong with a line that is no row of the table.
func rowError(err error, metrics []string, line int) error {
	var p *csv.ParseError
	if errors.As(err, &p) && errors.Is(p.Err, csv.ErrFieldCount) {
		return fmt.Errorf("line %d: wrong number of fields; want %d: %s,%s,%s", p.Line, len(metrics)+2, seriesColumn, timeColumn, strings.Join(metrics, ","))
	}
	if errors.As(err, &p) {
		return err // It names the line.
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("line %d or so: the compressed data end early; the file was cut off: %w", line, err)
	}
	return fmt.Errorf("line %d or so: %w", line, err)
}

func (t *table) header(c *csv.Reader) error {
	record, err := c.Read()
	if err != nil && !errors.Is(err, io.EOF) {
		return rowError(err, metricColumns, 1)
	}
	ok := len(record) > 2 && record[0] == seriesColumn && record[1] == timeColumn
	for i := 2; ok && i < len(record); i++ {
		ok = slices.Contains(metricColumns, record[i]) && !slices.Contains(record[2:i], record[i])
	}
	if !ok {
		return fmt.Errorf("line 1: the header is %q; want %s,%s and at least one of %s", strings.Join(record, ","), seriesColumn, timeColumn, strings.Join(metricColumns, ", "))
	}
	t.metrics = slices.Clone(record[2:])
	return nil
}

func (t *table) row(record []string, line int) error {
	s, err := t.series(record[0], line)
	if err != nil {
		return err
	}
	at, err := parseTime(record[1])
	if err != nil {
		return err
	}
	if n := len(s.times); n > 0 && at <= s.times[n-1] {
		return fmt.Errorf("timestamp_s %d of series %q does not follow %d; want rising times within a series", at, s.name, s.times[n-1])
	}
	for i, field := range record[2:] {
		v, err := parseSample(field)
		if err != nil {
			return fmt.Errorf("%s %w", t.metrics[i], err)
		}
		s.values[i] = append(s.values[i], v)
	}
	s.times = append(s.times, at)
	return nil
}

func (t *table) series(name string, line int) (*rows, error) {
	if s, ok := t.bySeries[name]; ok {
		return s, t.bounded(len(t.order))
	}
	if name == "" {
		return nil, errors.New("series is empty; want a name")
	}
	if !model.LabelValue(name).IsValid() {
		return nil, fmt.Errorf("series %q is no UTF-8 text", name)
	}
	name = strings.Clone(name) // The record's fields share the line.
	s := &rows{name: name, line: line, metrics: t.metrics, values: make([][]float64, len(t.metrics))}
	t.bySeries[name] = s
	t.order = append(t.order, s)
	return s, t.bounded(len(t.order))
}

func (t *table) bounded(series int) error {
	if series > maxSeries || t.count >= maxRows {
		return fmt.Errorf("the file is too large; want at most %d series and %d rows", maxSeries, maxRows)
	}
	return nil
}

func parseTime(field string) (int64, error) {
	at, err := strconv.ParseInt(field, 10, 64)
	if err != nil || at < 0 || at > maxTime {
		return 0, fmt.Errorf("timestamp_s %q is out of range; want whole seconds since the Unix epoch", field)
	}
	return at, nil
}

func parseSample(field string) (float64, error) {
	if field == "" {
		return nan, nil
	}
	v, err := strconv.ParseFloat(field, 64)
	if err != nil || !observed(v) {
		return 0, fmt.Errorf("%q is no number; want one such as 0.25, or nothing where the sample is missing", field)
	}
	return v, nil
}

// histories puts the rows on a grid.
func (s *rows) histories() ([]History, error) {
	if len(s.times) < 2 {
		return nil, nil
	}
	step := s.step()
	first := s.times[0]
	n := s.position(len(s.times)-1, step) + 1
	if n > maxGrid {
		return nil, fmt.Errorf("line %d: series %q spans %d steps of %d s; want at most %d", s.line, s.name, n, step, maxGrid)
	}
	start := Align(time.Unix(first, 0), time.Duration(step)*time.Second)
	byMetric := map[string]Series{}
	for i, metric := range s.metrics {
		values, found := s.grid(i, int(n), step)
		if found {
			labels := model.Metric{model.MetricNameLabel: model.LabelValue(metric), seriesColumn: model.LabelValue(s.name)}
			byMetric[metric] = Series{Labels: labels, Start: start, Step: time.Duration(step) * time.Second, Values: values}
		}
	}
	var out []History
	for _, metric := range s.metrics {
		if series, ok := byMetric[metric]; ok {
			out = append(out, History{Series: series, With: byMetric[companions[metric]]})
		}
	}
	return out, nil
}

// step is the median distance of the rows in seconds.
func (s *rows) step() int64 {
	gaps := make([]int64, len(s.times)-1)
	for i := range gaps {
		gaps[i] = s.times[i+1] - s.times[i]
	}
	slices.Sort(gaps)
	return gaps[(len(gaps)-1)/2] // Of two, the smaller: gaps only add to it.
}

// position is the point of the grid that row i is nearest to.
func (s *rows) position(i int, step int64) int64 {
	return int64(math.Round(float64(s.times[i]-s.times[0]) / float64(step)))
}

func (s *rows) grid(metric, n int, step int64) (values []float64, found bool) {
	values = make([]float64, n)
	for i := range values {
		values[i] = nan
	}
	for i, v := range s.values[metric] {
		if observed(v) {
			values[s.position(i, step)] = v
			found = true
		}
	}
	return values, found
}
