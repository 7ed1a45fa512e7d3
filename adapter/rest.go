package adapter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

const apiDescription = `Forecasts of CPU and memory usage, in the unit of each metric.

A forecast gives quantiles of the usage at each of the next steps. The value of a forecast is the peak of one
quantile from now until a horizon; it is the same number that the external metrics API and /metrics give.
Errors of these operations are problem documents (RFC 9457) that name the faulty field.`

// registerAPI adds the REST API and its OpenAPI 3.1 document, generated from the
// types below, to mux.
func (h *handler) registerAPI(mux *http.ServeMux) {
	config := huma.DefaultConfig("kubeforecaster", h.opts.Version)
	config.Info.Description = apiDescription
	config.CreateHooks = nil // No $schema property: the answers are what they were when this API was first published.
	config.SchemasPath = ""
	config.DocsPath = "" // Served from embedded assets instead.
	config.RejectUnknownQueryParameters = true
	config.Transformers = []huma.Transformer{nameBody}
	api := humago.New(mux, config)

	huma.Register(api, huma.Operation{
		OperationID: "health",
		Method:      http.MethodGet,
		Path:        "/health",
		Summary:     "Tell that the program runs",
		Tags:        []string{"Health"},
	}, func(context.Context, *struct{}) (*healthOutput, error) {
		return &healthOutput{Body: Health{Status: "OK"}}, nil
	})
	huma.Register(api, huma.Operation{
		OperationID: "list-forecasts",
		Method:      http.MethodGet,
		Path:        "/api/v1/forecasts",
		Summary:     "List the forecasts that are served",
		Description: "Forecasts that are too old are left out. The order is that of the metrics and, within one, of the labels.",
		Tags:        []string{"Forecasts"},
		Errors:      []int{http.StatusBadRequest, http.StatusNotFound, http.StatusUnprocessableEntity},
	}, h.listForecasts)
	predict := predictOperation()
	huma.Register(api, predict, h.predict)
	// The library takes a raw body for binary, but the body is documented.
	predict.RequestBody.Content["application/json"].Schema = api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[PredictRequest](), true, "")
}

// nameBody names the body in the problem documents of the library that name
// nothing, such as that for a body too large.
func nameBody(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if ok && len(e.Errors) == 0 && e.Status < http.StatusInternalServerError {
		e.Errors = []*huma.ErrorDetail{{Location: "body", Message: e.Detail}}
	}
	return v, nil
}

// Health is the answer of GET /health.
type Health struct {
	Status string `json:"status" example:"OK" doc:"Always OK."`
}

type healthOutput struct{ Body Health }

// ForecastsInput are the parameters of GET /api/v1/forecasts.
type ForecastsInput struct {
	Metric    string `query:"metric" maxLength:"253" example:"predicted_cpu_cores" doc:"Only this metric. All metrics when left out."`
	Namespace string `query:"namespace" maxLength:"253" doc:"Only series whose label namespace has this value."`
	Workload  string `query:"workload" maxLength:"253" doc:"Only series whose label workload has this value."`
	Selector  string `query:"selector" maxLength:"4096" example:"workload_kind=Deployment,workload in (web,api)" doc:"Kubernetes label selector on the labels of the series. As in the external metrics API, its keys horizon and quantile choose the view."`
	Horizon   string `query:"horizon" maxLength:"32" example:"5m" doc:"How far ahead the value looks; at most the horizon of the rule. The rule's lead when left out."`
	Quantile  string `query:"quantile" maxLength:"32" example:"0.95" doc:"Quantile of the value, from 0.1 to 0.99. The rule's level when left out."`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Most forecasts to return."`
	Offset    int    `query:"offset" minimum:"0" default:"0" doc:"How many matching forecasts to pass over: the field next of the previous page."`
}

// Forecasts is the answer of GET /api/v1/forecasts.
type Forecasts struct {
	Forecasts []ServedForecast `json:"forecasts" nullable:"false"`
	Total     int              `json:"total" doc:"Number of forecasts that match, on all pages."`
	Next      int              `json:"next,omitempty" doc:"Offset of the next page; absent on the last."`
}

type forecastsOutput struct{ Body Forecasts }

// ServedForecast is a forecast as GET /api/v1/forecasts lists it.
type ServedForecast struct {
	Metric      string            `json:"metric" example:"predicted_cpu_cores"`
	Labels      map[string]string `json:"labels"`
	Value       float64           `json:"value" doc:"Peak of the quantile expected until the horizon: what the external metrics API serves."`
	Horizon     string            `json:"horizon" example:"5m" doc:"How far ahead of now the value looks."`
	Quantile    float64           `json:"quantile" example:"0.9" doc:"Quantile of the value."`
	Observed    float64           `json:"observed" doc:"The newest sample, taken at the origin."`
	Origin      time.Time         `json:"origin" doc:"Time of the newest sample that the forecast was made from."`
	Model       string            `json:"model" doc:"Version of the model that made the forecast."`
	StepSeconds float64           `json:"step_seconds" doc:"Spacing of the steps."`
	Steps       []ForecastStep    `json:"steps" nullable:"false" doc:"Every step of the forecast; no value is below zero."`
}

// ForecastStep is one step of a forecast.
type ForecastStep struct {
	Time      time.Time          `json:"time"`
	Quantiles map[string]float64 `json:"quantiles" doc:"Values by quantile, such as 0.5 for the median."`
}

func (h *handler) listForecasts(_ context.Context, in *ForecastsInput) (*forecastsOutput, error) {
	rules, err := h.rules(in.Metric)
	if err != nil {
		return nil, err
	}
	q, err := in.query()
	if err != nil {
		return nil, err
	}
	now := h.opts.Now()
	out := Forecasts{Forecasts: []ServedForecast{}}
	for _, r := range rules {
		// A reload may have changed or dropped the rule meanwhile.
		snapshot, known := h.opts.Store.Snapshot(r.Metric)
		if !known {
			continue
		}
		r = snapshot.Rule
		view, err := r.ParseView(q.horizon, q.quantile)
		if err != nil {
			return nil, problem(http.StatusBadRequest, viewLocation(err), err.Error())
		}
		for _, f := range snapshot.Forecasts {
			if !in.matches(q, servedLabels(f.Labels)) {
				continue
			}
			value, ok := r.Value(f, view, now)
			if !ok {
				continue
			}
			if out.Total >= in.Offset && len(out.Forecasts) < in.Limit {
				out.Forecasts = append(out.Forecasts, servedForecast(r, f, view, value))
			}
			out.Total++
		}
	}
	if end := in.Offset + len(out.Forecasts); len(out.Forecasts) > 0 && end < out.Total {
		out.Next = end
	}
	return &forecastsOutput{Body: out}, nil
}

// rules returns the rule of a metric, or all of them for an empty one.
func (h *handler) rules(metric string) ([]forecaster.Rule, error) {
	if metric == "" {
		return h.opts.Store.Rules(), nil
	}
	snapshot, ok := h.opts.Store.Snapshot(strings.ToLower(metric))
	if !ok {
		return nil, problem(http.StatusNotFound, "query.metric", fmt.Sprintf("no rule makes the metric %q", metric))
	}
	return []forecaster.Rule{snapshot.Rule}, nil
}

// query joins the selector with the parameters that choose the view.
func (in *ForecastsInput) query() (query, error) {
	sel, err := labels.Parse(in.Selector)
	if err != nil {
		return query{}, problem(http.StatusBadRequest, "query.selector", err.Error())
	}
	q, err := newQuery(sel)
	if err != nil {
		return query{}, problem(http.StatusBadRequest, "query.selector", err.Error())
	}
	if q.horizon, err = either(q.horizon, in.Horizon); err != nil {
		return query{}, problem(http.StatusBadRequest, "query.horizon", "horizon "+err.Error())
	}
	if q.quantile, err = either(q.quantile, in.Quantile); err != nil {
		return query{}, problem(http.StatusBadRequest, "query.quantile", "quantile "+err.Error())
	}
	return q, nil
}

// matches reports whether a series is asked for.
func (in *ForecastsInput) matches(q query, ls servedLabels) bool {
	is := func(label, want string) bool { return want == "" || ls.Get(label) == want }
	return is(namespaceLabel, in.Namespace) && is(workloadLabel, in.Workload) && q.matches(ls)
}

// errTwice is the fault of a view that is asked for in two ways.
var errTwice = errors.New("is given both as a parameter and in the selector; want it once")

// either returns the one of two texts that is not empty.
func either(a, b string) (string, error) {
	if a != "" && b != "" {
		return "", errTwice
	}
	return a + b, nil
}

// viewLocation names the parameter that ParseView found at fault, whose errors
// start with its name.
func viewLocation(err error) string {
	if strings.HasPrefix(err.Error(), forecaster.QuantileKey) {
		return "query." + forecaster.QuantileKey
	}
	return "query." + forecaster.HorizonKey
}

func servedForecast(r forecaster.Rule, f forecaster.Forecast, v forecaster.View, value float64) ServedForecast {
	steps := make([]ForecastStep, len(f.Quantiles[0]))
	for j := range steps {
		steps[j] = ForecastStep{Time: f.Origin.Add(time.Duration(j+1) * f.Step).UTC(), Quantiles: quantiles(f, j)}
	}
	return ServedForecast{
		Metric:      r.Metric,
		Labels:      servedLabels(f.Labels).Map(),
		Value:       value,
		Horizon:     formatHorizon(v.Horizon),
		Quantile:    v.Level,
		Observed:    f.Observed,
		Origin:      f.Origin.UTC(),
		Model:       f.Model,
		StepSeconds: f.Step.Seconds(),
		Steps:       steps,
	}
}

// quantiles returns the values of step j by level, none below zero.
func quantiles(f forecaster.Forecast, j int) map[string]float64 {
	out := make(map[string]float64, len(f.Levels))
	for i, level := range f.Levels {
		out[formatLevel(level)] = max(f.Quantiles[i][j], 0)
	}
	return out
}

// problem is the error that a handler returns for one faulty field.
func problem(status int, location, message string) error {
	return huma.NewError(status, message, &huma.ErrorDetail{Location: location, Message: message})
}
