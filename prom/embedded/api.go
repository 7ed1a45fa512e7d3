package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/route"
	"github.com/prometheus/common/version"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/notifications"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

const apiPath = "/api/v1"

// Bounds of Prometheus' remote read endpoint, as its own defaults.
const (
	remoteReadSamples     = 50_000_000
	remoteReadConcurrency = 10
	remoteReadFrame       = 1 << 20
)

// serve answers HTTP from now on.
func (s *Server) serve() {
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadTimeout:       readTimeout,
		ReadHeaderTimeout: readTimeout,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelError),
		BaseContext:       func(net.Listener) context.Context { return s.closing },
	}
	s.serving.Go(func() {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			s.logger.Error("Embedded Prometheus stopped serving", "err", err)
		}
	})
}

func (s *Server) handler() http.Handler {
	api := route.New()
	s.api().Register(api)
	mux := http.NewServeMux()
	mux.Handle(apiPath+"/", http.StripPrefix(apiPath, api))
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /-/healthy", say("Prometheus Server is Healthy.\n"))
	mux.Handle("GET /-/ready", say("Prometheus Server is Ready.\n"))
	return s.whileOpen(mux)
}

// whileOpen keeps the server from closing under a request.
func (s *Server) whileOpen(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		release, err := s.acquire()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer release()
		h.ServeHTTP(w, r)
	})
}

func say(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, text) // A client that is gone needs no answer.
	}
}

// api is Prometheus' own HTTP API over the parts of s. Writing, administration,
// and the experimental features are off.
func (s *Server) api() *v1.API {
	return v1.NewAPI(
		s.engine,
		s.db,
		nil, // No appender: nothing is written over HTTP.
		s.db,
		func(context.Context) v1.ScrapePoolsRetriever { return s.scraper },
		func(context.Context) v1.TargetRetriever { return s.scraper },
		func(context.Context) v1.AlertmanagerRetriever { return nothing{} },
		s.currentConfig,
		map[string]string{},
		v1.GlobalURLOptions{ListenAddress: s.listener.Addr().String(), Host: s.listener.Addr().String(), Scheme: "http"},
		func(f http.HandlerFunc) http.HandlerFunc { return f }, // The server is ready before it serves.
		admin{DB: s.db, stats: s.stats},
		s.db.Dir(),
		false, // Administration.
		false, // Search.
		0,
		s.logger,
		func(context.Context) v1.RulesRetriever { return nothing{} },
		remoteReadSamples,
		remoteReadConcurrency,
		remoteReadFrame,
		false, // Agent.
		nil,   // Origins of other sites.
		s.runtimeInfo,
		buildInfo(),
		func() []notifications.Notification { return nil },
		func() (<-chan notifications.Notification, func(), bool) { return nil, nil, false },
		s.registry,
		s.registry,
		nil,   // Statistics as usual.
		false, // Remote write.
		nil,
		false, // OTLP, with its three options.
		false,
		false,
		lookbackDelta,
		false, // Labels for type and unit.
		false, // Metadata in the write-ahead log.
		nil,   // Error codes as usual.
		features.NewRegistry(),
		v1.OpenAPIOptions{ExternalURL: s.URL(), Version: version.Version},
		s.parser,
		false, // Query cost.
		queryTimeout,
	)
}

func (s *Server) currentConfig() config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.config
}

func (s *Server) runtimeInfo() (v1.RuntimeInfo, error) {
	host, err := os.Hostname()
	if err != nil {
		return v1.RuntimeInfo{}, fmt.Errorf("read name of host: %w", err)
	}
	return v1.RuntimeInfo{
		StartTime:           s.started,
		Hostname:            host,
		ServerTime:          time.Now(),
		ReloadConfigSuccess: true,
		LastConfigTime:      s.started,
		GoroutineCount:      runtime.NumGoroutine(),
		GOMAXPROCS:          runtime.GOMAXPROCS(0),
	}, nil
}

func buildInfo() *v1.PrometheusVersion {
	return &v1.PrometheusVersion{
		Version: version.Version, Revision: version.Revision, Branch: version.Branch,
		BuildUser: version.BuildUser, BuildDate: version.BuildDate, GoVersion: version.GoVersion,
	}
}

// admin gives the HTTP API the statistics of the database.
type admin struct {
	*tsdb.DB
	stats *tsdb.DBStats
}

func (a admin) Stats(label string, limit int) (*tsdb.Stats, error) {
	return a.Head().Stats(label, limit), nil
}

func (a admin) WALReplayStatus() (tsdb.WALReplayStatus, error) {
	return a.stats.Head.WALReplayStatus.GetWALReplayStatus(), nil
}

func (a admin) BlockMetas() ([]tsdb.BlockMeta, error) { return a.DB.BlockMetas(), nil }

// nothing stands for the rules and Alertmanagers that this server has not.
type nothing struct{}

func (nothing) RuleGroups() []*rules.Group           { return nil }
func (nothing) AlertingRules() []*rules.AlertingRule { return nil }
func (nothing) Alertmanagers() []*url.URL            { return nil }
func (nothing) DroppedAlertmanagers() []*url.URL     { return nil }

// published is the server's registry as one collector of another. Its
// descriptions are fixed, so that it can be found again to be unregistered.
type published struct {
	*prometheus.Registry
	descs []*prometheus.Desc
}

// Describe implements prometheus.Collector.
func (p *published) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range p.descs {
		ch <- d
	}
}

// publish adds the server's own metrics to reg, which may be nil, until Close.
func (s *Server) publish(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	p := &published{Registry: s.registry, descs: describe(s.registry)}
	if err := reg.Register(p); err != nil {
		return err
	}
	s.unpublish = func() { reg.Unregister(p) }
	return nil
}

func describe(c prometheus.Collector) []*prometheus.Desc {
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		c.Describe(ch)
	}()
	var out []*prometheus.Desc
	for d := range ch {
		out = append(out, d)
	}
	return out
}
