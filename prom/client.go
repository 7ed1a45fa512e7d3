package prom

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/semaphore"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// Defaults of Options.
const (
	DefaultTimeout       = 30 * time.Second
	DefaultMaxConcurrent = 4
	DefaultMaxAttempts   = 4
	DefaultMaxPoints     = 11_000 // Prometheus refuses more for a series.
	DefaultMaxSeries     = 200_000
)

// Bounds that are no options: of what one answer, and one query, may hold.
const (
	maxBody        = 512 << 20 // bytes
	maxRangePoints = 1_000_000 // of one series
	maxCells       = 1 << 28   // of all series: 2 GiB
)

const userAgent = "kubeforecaster"

// Options of a Client.
type Options struct {
	// URL is that of the server, such as "http://prometheus:9090" or
	// "https://mimir.example/prometheus". /api/v1/... lies below it.
	URL string
	// HTTPClient is how to connect and to authenticate, as in Prometheus' own
	// configuration file. Files it names are read again when they change. The
	// zero value stands for config.DefaultHTTPClientConfig.
	HTTPClient config.HTTPClientConfig
	// Params are added to the query string of every request to the server. They
	// cannot replace what a query is made of, such as "query" or "start".
	Params url.Values
	// Timeout bounds one attempt; the server is asked to keep to it too.
	Timeout time.Duration
	// MaxConcurrent bounds the requests in flight; further ones wait.
	MaxConcurrent int
	// MaxAttempts bounds how often one request is sent.
	MaxAttempts int
	// MaxPoints bounds the points of a series that one request asks for. Longer
	// ranges are split, and the answers joined.
	MaxPoints int
	// MaxSeries bounds the series of an answer; more are an error.
	MaxSeries int
	// AllowPartial takes answers that the server says are not whole, as those of
	// Thanos or remote read are while a store is down. Sums over such answers are
	// too low, so they are refused unless this is set.
	AllowPartial bool
	Logger       *slog.Logger
	// Registerer gets the client's metrics, kubeforecaster_prometheus_*. Clients
	// on one Registerer share them. May be nil.
	Registerer prometheus.Registerer

	firstPause time.Duration // before the second attempt, about; for tests
	maxBody    int64         // bytes of an answer; for tests
	// transport takes the place of the network; for tests.
	transport http.RoundTripper
}

// reserved are the parameters of queries.
var reserved = []string{"query", "time", "start", "end", "step", "timeout"}

func (o Options) withDefaults() Options {
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.MaxConcurrent = cmp.Or(o.MaxConcurrent, DefaultMaxConcurrent)
	o.MaxAttempts = cmp.Or(o.MaxAttempts, DefaultMaxAttempts)
	o.MaxPoints = cmp.Or(o.MaxPoints, DefaultMaxPoints)
	o.MaxSeries = cmp.Or(o.MaxSeries, DefaultMaxSeries)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.firstPause = cmp.Or(o.firstPause, firstPause)
	o.maxBody = cmp.Or(o.maxBody, maxBody)
	if reflect.ValueOf(o.HTTPClient).IsZero() {
		o.HTTPClient = config.DefaultHTTPClientConfig
	}
	return o
}

// validate returns every fault of options that have their defaults, joined. It
// brings older forms of the HTTP configuration into the newest.
func (o *Options) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	errs = append(errs, validateURL(o.URL))
	if err := o.HTTPClient.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("http_client: %w", err))
	}
	for _, name := range reserved {
		check(!o.Params.Has(name), "params: %q is a parameter of the query itself; want others", name)
	}
	check(o.Timeout >= time.Millisecond && o.Timeout <= 10*time.Minute, "timeout: %s is out of range; want 1ms to 10m", o.Timeout)
	check(o.MaxConcurrent >= 1 && o.MaxConcurrent <= 256, "max_concurrent: %d is out of range; want 1 to 256", o.MaxConcurrent)
	check(o.MaxAttempts >= 1 && o.MaxAttempts <= 10, "max_attempts: %d is out of range; want 1 to 10", o.MaxAttempts)
	check(o.MaxPoints >= 1 && o.MaxPoints <= DefaultMaxPoints, "max_points: %d is out of range; want 1 to %d", o.MaxPoints, DefaultMaxPoints)
	check(o.MaxSeries >= 1 && o.MaxSeries <= 10_000_000, "max_series: %d is out of range; want 1 to 10000000", o.MaxSeries)
	return errors.Join(errs...)
}

func validateURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		// The error of net/url repeats the URL, and with it a password.
		return errors.New("url: does not parse; want one such as http://prometheus:9090")
	}
	switch {
	case s == "":
		return errors.New("url: missing; want one such as http://prometheus:9090")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("url: %q has the scheme %q; want http or https", display(u), u.Scheme)
	case u.Hostname() == "":
		return fmt.Errorf("url: %q has no host; want one such as http://prometheus:9090", display(u))
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("url: %q has more after its path; want query parameters under params", display(u))
	}
	return nil
}

// display is a URL without what may be secret in it.
func display(u *url.URL) string {
	shown := *u
	shown.User, shown.RawQuery, shown.Fragment = nil, "", ""
	return shown.String()
}

// Client asks one Prometheus. It is safe for concurrent use.
type Client struct {
	opts     Options
	url      string // for messages
	api      api.Client
	slots    *semaphore.Weighted
	metrics  *metrics
	warnings *repeats
}

// New returns a client, or an error that says everything that is wrong with o.
// It reads the TLS files that o names but does not connect: see Check.
func New(o Options) (*Client, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("prometheus client: %w", err)
	}
	hc, err := config.NewClientFromConfig(o.HTTPClient, userAgent, config.WithUserAgent(userAgent))
	if err != nil {
		return nil, fmt.Errorf("prometheus client: http_client: %w", err)
	}
	if o.transport != nil {
		hc.Transport = o.transport
	}
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("prometheus client: %w", err)
	}
	hc.Transport = &transport{next: hc.Transport, host: u.Host, params: o.Params, maxBody: o.maxBody}
	ac, err := api.NewClient(api.Config{Address: o.URL, Client: hc})
	if err != nil {
		return nil, fmt.Errorf("prometheus client: %w", err)
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("prometheus client: register metrics: %w", err)
	}
	return &Client{
		opts: o, url: display(u), api: ac, metrics: m,
		slots:    semaphore.NewWeighted(int64(o.MaxConcurrent)),
		warnings: &repeats{every: time.Minute},
	}, nil
}

// Close lets idle connections go. Queries in flight go on.
func (c *Client) Close() {
	if ci, ok := c.api.(api.CloseIdler); ok {
		ci.CloseIdleConnections()
	}
}

// QueryRange returns the history of every series that expr selects on the grid
// of r, that is r.Align(), ordered by labels and without the label __name__. It
// is a forecaster.QueryFunc. A series has a value for every grid point: see the
// type grid for how samples get there. A series without a single number is left
// out; when none is left, the error is forecaster.ErrNoData.
func (c *Client) QueryRange(ctx context.Context, expr string, r forecaster.Range) ([]forecaster.Series, error) {
	began := time.Now()
	ss, err := c.queryRange(ctx, expr, r)
	c.metrics.observe(began, err)
	if err != nil {
		return nil, fmt.Errorf("query %q over %s at %s: %w", shortExpr(expr), r, c.url, err)
	}
	return ss, nil
}

func (c *Client) queryRange(ctx context.Context, expr string, r forecaster.Range) ([]forecaster.Series, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	var warnings []string
	defer func() { c.warn(expr, warnings) }()
	g := newGrid(r.Align(), c.opts.MaxSeries)
	defer func() { c.metrics.histograms.Add(float64(g.histograms)) }()
	for part := range parts(g.r, c.opts.MaxPoints) {
		q := &query{client: c}
		v, ws, err := q.overRange(ctx, expr, part)
		warnings = append(warnings, ws...)
		if err != nil {
			return nil, err
		}
		if err := c.whole(ws); err != nil {
			return nil, err
		}
		m, ok := v.(model.Matrix)
		if !ok {
			return nil, fmt.Errorf("%w: a range query gave no matrix but %T", ErrBadAnswer, v)
		}
		if err := g.add(m); err != nil {
			return nil, err
		}
	}
	return g.series()
}

// checkRange refuses what cannot be put on a grid.
func checkRange(r forecaster.Range) error {
	switch {
	case r.Step < time.Millisecond || r.Step%time.Millisecond != 0:
		return fmt.Errorf("%w: step %s; want whole milliseconds, at least one", ErrBadQuery, r.Step)
	case r.Start.Unix() < 0 || r.End.Year() > 2200:
		return fmt.Errorf("%w: the range lies before 1970 or after 2200", ErrBadQuery)
	case r.Align().Len() == 0:
		return fmt.Errorf("%w: the range has no multiple of its step in it", ErrBadQuery)
	case r.Align().Len() > maxRangePoints:
		return fmt.Errorf("%w: the range has %d points; at most %d are taken", ErrTooLarge, r.Align().Len(), maxRangePoints)
	}
	return nil
}

// parts splits an aligned range into ranges of at most n points that follow
// one another.
func parts(r forecaster.Range, n int) func(yield func(forecaster.Range) bool) {
	return func(yield func(forecaster.Range) bool) {
		for start := r.Start; !start.After(r.End); start = start.Add(time.Duration(n) * r.Step) {
			end := start.Add(time.Duration(n-1) * r.Step)
			if end.After(r.End) {
				end = r.End
			}
			if !yield(forecaster.Range{Start: start, End: end, Step: r.Step}) {
				return
			}
		}
	}
}

// Check runs expr once, as of now, to see that the server answers, takes the
// credentials, and understands the expression as one that a rule can use: it
// must give an instant vector or a number. A vector without series is no error.
func (c *Client) Check(ctx context.Context, expr string) error {
	began := time.Now()
	err := c.check(ctx, expr)
	c.metrics.observe(began, err)
	if err != nil {
		return fmt.Errorf("query %q at %s: %w", shortExpr(expr), c.url, err)
	}
	return nil
}

func (c *Client) check(ctx context.Context, expr string) error {
	q := &query{client: c}
	v, warnings, err := q.instant(ctx, expr, time.Now())
	c.warn(expr, warnings)
	if err != nil {
		return err
	}
	switch v.(type) {
	case model.Vector, *model.Scalar:
		return nil
	}
	return fmt.Errorf("%w: it gives a %s; want an expression that gives an instant vector", ErrBadQuery, v.Type())
}

// promQLWarning begins the warnings that tell of the expression. All others tell
// of data that is missing.
const promQLWarning = "PromQL "

// whole returns an error when the warnings say that an answer is not.
func (c *Client) whole(warnings v1.Warnings) error {
	for _, w := range warnings {
		if !c.opts.AllowPartial && !strings.HasPrefix(w, promQLWarning) {
			return fmt.Errorf("%w: %s", ErrPartial, shorten(w, 200))
		}
	}
	return nil
}

// warn counts the warnings that came with the answers to one query and logs
// those that it has not logged lately.
func (c *Client) warn(expr string, warnings v1.Warnings) {
	c.metrics.warnings.Add(float64(len(warnings)))
	slices.Sort(warnings)
	fresh := slices.DeleteFunc(slices.Compact(warnings), func(w string) bool { return c.warnings.seen(w, time.Now()) })
	if len(fresh) > 0 {
		c.opts.Logger.Warn("Prometheus answered with warnings", "expr", shortExpr(expr), "warnings", fresh)
	}
}
