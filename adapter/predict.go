package adapter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// Bounds of POST /predict. The tags of PredictRequest document them.
const (
	minLoads           = 15
	maxLoads           = 10_000
	maxLoad            = 1e18
	defaultSteps       = 3
	defaultStepSeconds = 60
	minStepSeconds     = 10
	maxStepSeconds     = 900
	maxPredictBody     = 1 << 20
	maxFaults          = 10 // faults named in one answer
	predictBodyTimeout = 5 * time.Second
	retryAfterSeconds  = "1"
	median             = 0.5
)

// PredictRequest is the body of POST /predict.
type PredictRequest struct {
	CPULoads    []float64 `json:"cpu_loads" required:"true" nullable:"false" minItems:"15" maxItems:"10000" minimum:"0" maximum:"1e18" example:"[0.21,0.22,0.2,0.24,0.25,0.27,0.26,0.29,0.31,0.3,0.33,0.35,0.36,0.38,0.4]" doc:"CPU usage, in any unit, oldest first, one value every step; the last is that of now."`
	MemoryLoads []float64 `json:"memory_loads" required:"true" nullable:"false" minItems:"15" maxItems:"10000" minimum:"0" maximum:"1e18" example:"[256,256,257,258,258,259,260,260,261,262,262,263,264,264,265]" doc:"Memory usage, in any unit, at the same times: as many values as cpu_loads."`
	Steps       int       `json:"steps,omitempty" minimum:"1" maximum:"12" default:"3" doc:"How many steps to forecast."`
	StepSeconds int       `json:"step_seconds,omitempty" minimum:"10" maximum:"900" default:"60" doc:"Spacing of the values and of the predictions."`
}

// PredictResponse is the answer of POST /predict.
type PredictResponse struct {
	Predictions []Prediction `json:"predictions" nullable:"false" doc:"The next steps, in order."`
	Model       string       `json:"model" doc:"Version of the model that made the predictions."`
	StepSeconds int          `json:"step_seconds" doc:"Spacing of the predictions: the first is this far from now."`
}

// Prediction is what is expected at one step, in the units of the request.
type Prediction struct {
	CPU             float64            `json:"cpu" doc:"Median of the CPU usage."`
	Memory          float64            `json:"memory" doc:"Median of the memory usage."`
	CPUQuantiles    map[string]float64 `json:"cpu_quantiles" doc:"CPU usage by quantile, such as 0.95."`
	MemoryQuantiles map[string]float64 `json:"memory_quantiles" doc:"Memory usage by quantile, such as 0.95."`
}

type predictInput struct {
	// The body is decoded here and not by the library, whose answer would hold
	// every fault of a million, and the body itself.
	RawBody     []byte `contentType:"application/json"`
	contentType string
}

// Resolve takes the content type from the request.
func (in *predictInput) Resolve(ctx huma.Context) []error {
	in.contentType = ctx.Header("Content-Type")
	return nil
}

type predictOutput struct{ Body PredictResponse }

func predictOperation() huma.Operation {
	return huma.Operation{
		OperationID: "predict",
		Method:      http.MethodPost,
		Path:        "/predict",
		Summary:     "Forecast two series that are sent along",
		Description: "Forecasts CPU and memory usage together, each with the other as its companion. Nothing is stored.",
		Tags:        []string{"Forecasts"},
		RequestBody: &huma.RequestBody{
			Required: true,
			Content:  map[string]*huma.MediaType{"application/json": {}},
		},
		SkipValidateBody: true,
		MaxBodyBytes:     maxPredictBody,
		BodyReadTimeout:  predictBodyTimeout,
		Errors: []int{
			http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
			http.StatusUnprocessableEntity, http.StatusServiceUnavailable,
		},
	}
}

func (h *handler) predict(ctx context.Context, in *predictInput) (*predictOutput, error) {
	if err := checkContentType(in.contentType); err != nil {
		return nil, err
	}
	req, err := decodePredict(in.RawBody)
	if err != nil {
		return nil, err
	}
	m := h.opts.Model()
	if m == nil {
		return nil, unavailable("no model is loaded yet")
	}
	fs, err := h.runModel(ctx, m, req.windows(h.opts.Now()))
	if err != nil {
		return nil, err
	}
	predictions := make([]Prediction, req.Steps)
	for j := range predictions {
		if predictions[j], err = prediction(fs[0], fs[1], j); err != nil {
			h.opts.Logger.Error("Model gave an unusable forecast", "version", m.Version(), "err", err)
			return nil, huma.Error500InternalServerError("the model gave an unusable forecast")
		}
	}
	return &predictOutput{Body: PredictResponse{Predictions: predictions, Model: m.Version(), StepSeconds: req.StepSeconds}}, nil
}

// runModel runs the model within the deadline and the bound on concurrent runs.
// It returns one forecast per window.
func (h *handler) runModel(ctx context.Context, m forecaster.Model, ws []forecaster.Window) ([]forecaster.Forecast, error) {
	select {
	case h.predicting <- struct{}{}:
		defer func() { <-h.predicting }()
	default:
		return nil, unavailable(fmt.Sprintf("%d predictions are running, which is the most at a time", cap(h.predicting)))
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.PredictTimeout)
	defer cancel()
	fs, err := m.Predict(ctx, ws)
	switch {
	case errors.Is(err, forecaster.ErrShortHistory):
		return nil, problem(http.StatusUnprocessableEntity, "body.cpu_loads",
			fmt.Sprintf("%d values are too few for the model %s; it needs %d", ws[0].Observed, m.Version(), m.Shape().MinSteps))
	case errors.Is(err, context.DeadlineExceeded):
		return nil, unavailable(fmt.Sprintf("the model took longer than %s", h.opts.PredictTimeout))
	case err == nil && len(fs) != len(ws):
		err = fmt.Errorf("%d forecasts for %d windows", len(fs), len(ws))
	}
	if err != nil {
		h.opts.Logger.Error("Prediction failed", "version", m.Version(), "err", err)
		return nil, huma.Error500InternalServerError("the model failed")
	}
	return fs, nil
}

// windows are the two series on the grid of the step that ends now, each with
// the other as its companion.
func (r PredictRequest) windows(now time.Time) []forecaster.Window {
	cpu, memory := r.series("cpu", r.CPULoads, now), r.series("memory", r.MemoryLoads, now)
	return []forecaster.Window{window(cpu, memory, now), window(memory, cpu, now)}
}

func (r PredictRequest) series(name model.LabelValue, values []float64, now time.Time) forecaster.Series {
	step := time.Duration(r.StepSeconds) * time.Second
	return forecaster.Series{
		Labels: model.Metric{"resource": name},
		Start:  forecaster.Align(now, step).Add(-time.Duration(len(values)-1) * step),
		Step:   step,
		Values: values,
	}
}

// window cannot fail: every value of a request is a number, and the newest lies
// at or before now.
func window(s, with forecaster.Series, now time.Time) forecaster.Window {
	w, err := forecaster.NewWindow(s, with, now)
	if err != nil {
		return forecaster.Window{Labels: s.Labels, Step: s.Step} // Refused by the model as too short.
	}
	return w
}

func prediction(cpu, memory forecaster.Forecast, j int) (Prediction, error) {
	var p Prediction
	var err error
	if p.CPU, p.CPUQuantiles, err = predicted(cpu, j); err != nil {
		return p, fmt.Errorf("cpu: %w", err)
	}
	if p.Memory, p.MemoryQuantiles, err = predicted(memory, j); err != nil {
		return p, fmt.Errorf("memory: %w", err)
	}
	return p, nil
}

// predicted returns the median and all quantiles of step j, none below zero.
func predicted(f forecaster.Forecast, j int) (float64, map[string]float64, error) {
	mid, ok := f.Quantile(median, j)
	if !ok {
		return 0, nil, fmt.Errorf("no median for step %d", j+1)
	}
	qs := quantiles(f, j)
	for level, v := range qs {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return 0, nil, fmt.Errorf("quantile %s of step %d is %v", level, j+1, v)
		}
	}
	return max(mid, 0), qs, nil
}

func unavailable(message string) error {
	return huma.ErrorWithHeaders(huma.Error503ServiceUnavailable(message), http.Header{"Retry-After": {retryAfterSeconds}})
}

func checkContentType(contentType string) error {
	if contentType == "" {
		return nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err == nil && media == "application/json" {
		return nil
	}
	return problem(http.StatusUnsupportedMediaType, "header.Content-Type",
		fmt.Sprintf("%q is not understood; want application/json", contentType))
}

// decodePredict reads a request and checks it. Its error is a problem document
// that names at most maxFaults faults.
func decodePredict(body []byte) (PredictRequest, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return PredictRequest{}, problem(http.StatusBadRequest, brokenField(body, err), notAnObject(err))
	}
	d := predictDecoder{fields: fields}
	req := PredictRequest{
		CPULoads:    d.loads("cpu_loads"),
		MemoryLoads: d.loads("memory_loads"),
		Steps:       d.integer("steps", 1, forecaster.HorizonSteps, defaultSteps),
		StepSeconds: d.integer("step_seconds", minStepSeconds, maxStepSeconds, defaultStepSeconds),
	}
	d.unknown()
	if len(d.faults) == 0 && len(req.CPULoads) != len(req.MemoryLoads) {
		d.fault("memory_loads", "%d values, but cpu_loads has %d; want as many", len(req.MemoryLoads), len(req.CPULoads))
	}
	if len(d.faults) > 0 {
		return PredictRequest{}, huma.Error422UnprocessableEntity("validation failed", d.faults...)
	}
	return req, nil
}

// notAnObject says what is wrong with a body that is no JSON object.
func notAnObject(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("a JSON %s; want an object with cpu_loads and memory_loads", wrong.Value)
	}
	return "not JSON: " + err.Error()
}

// brokenField names the field in whose value the syntax of body breaks, such as
// by NaN, which is no JSON.
func brokenField(body []byte, err error) string {
	broken, ok := errors.AsType[*json.SyntaxError](err)
	if !ok || !strings.Contains(err.Error(), "looking for beginning of value") {
		return "body"
	}
	before := body[:min(int(broken.Offset), len(body))]
	location, last := "body", -1
	for _, field := range []string{"cpu_loads", "memory_loads"} {
		if at := bytes.LastIndex(before, []byte(`"`+field+`"`)); at > last {
			location, last = "body."+field, at
		}
	}
	return location
}

// predictDecoder reads the fields of a request and remembers what is wrong with
// them. It takes each field out of fields.
type predictDecoder struct {
	fields map[string]json.RawMessage
	faults []error
}

func (d *predictDecoder) fault(field, format string, args ...any) {
	if len(d.faults) < maxFaults {
		d.faults = append(d.faults, &huma.ErrorDetail{Location: "body." + field, Message: fmt.Sprintf(format, args...)})
	}
}

func (d *predictDecoder) take(field string) (json.RawMessage, bool) {
	raw, ok := d.fields[field]
	delete(d.fields, field)
	return raw, ok
}

func (d *predictDecoder) loads(field string) []float64 {
	raw, ok := d.take(field)
	if !ok {
		d.fault(field, "missing; want at least %d numbers", minLoads)
		return nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil || items == nil {
		d.fault(field, "not an array; want at least %d numbers", minLoads)
		return nil
	}
	if n := len(items); n < minLoads || n > maxLoads {
		d.fault(field, "%d values; want %d to %d", n, minLoads, maxLoads)
		return nil
	}
	out := make([]float64, len(items))
	for i, item := range items {
		v, err := number(item)
		switch at := fmt.Sprintf("%s[%d]", field, i); {
		case err != nil:
			d.fault(at, "%s is not a number", shortened(item))
		case v < 0 || v > maxLoad:
			d.fault(at, "%v is out of range; want 0 to %g", v, maxLoad)
		}
		out[i] = v
	}
	return out
}

func (d *predictDecoder) integer(field string, lowest, highest, unset int) int {
	raw, ok := d.take(field)
	if !ok {
		return unset
	}
	v, err := number(raw)
	if err != nil || v != math.Trunc(v) || v < float64(lowest) || v > float64(highest) {
		d.fault(field, "%s is out of range; want a whole number from %d to %d", shortened(raw), lowest, highest)
		return unset
	}
	return int(v)
}

// unknown finds fault with every field that was not taken.
func (d *predictDecoder) unknown() {
	var names []string
	for name := range d.fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		d.fault(shortened([]byte(name)), "unknown; want cpu_loads, memory_loads, steps and step_seconds")
	}
}

// number reads a JSON number. null, texts and what float64 cannot hold are
// errors.
func number(raw json.RawMessage) (float64, error) {
	return strconv.ParseFloat(string(raw), 64)
}

// shortened is a value as an error message shows it.
func shortened(raw []byte) string {
	const most = 40
	if len(raw) <= most {
		return string(raw)
	}
	return string(raw[:most]) + "…"
}
