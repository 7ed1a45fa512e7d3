// Package embedded runs Prometheus inside the process: its time series
// database, PromQL engine, scrape loop and HTTP API, for demonstrations and
// integration tests that must not depend on a server of their own.
//
// What it answers comes from Prometheus' own code. Left out are configuration
// files, service discovery, rules, alerts, remote write, and the web interface.
// [Server.Append] back-fills history, which a scraped Prometheus cannot do.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/compression"
)

// Defaults of Options.
const (
	DefaultListen    = "127.0.0.1:0"
	DefaultRetention = 15 * 24 * time.Hour // as Prometheus' own
)

// Bounds of Options.Retention.
const (
	MinRetention = 2 * time.Hour
	MaxRetention = 366 * 24 * time.Hour
)

// Limits of the query engine and the HTTP server, as Prometheus' own defaults.
const (
	lookbackDelta    = 5 * time.Minute
	queryTimeout     = 2 * time.Minute
	maxQuerySamples  = 50_000_000
	readTimeout      = 30 * time.Second
	shutdownTimeout  = 5 * time.Second
	targetSyncPeriod = 200 * time.Millisecond // Prometheus waits 5 s for more changes; here there is one at a time.
	headStripes      = 1 << 9                 // Series number in the thousands here, not in the millions.
)

// Options of a Server.
type Options struct {
	Dir    string // where the database lies; made when it is missing
	Listen string // host:port of the HTTP API; DefaultListen when empty
	// Retention is how far back samples are kept and may be appended, counted
	// from the newest; DefaultRetention when zero. More may be kept, for up to
	// five times as long: the database works in blocks of twice the retention.
	Retention time.Duration
	Scrapes   []Scrape // may also be set later with Server.SetScrapes
	Logger    *slog.Logger
	// Registerer gets Prometheus' own metrics, prometheus_*, until Close. May be
	// nil.
	Registerer prometheus.Registerer
}

// withDefaults returns the options with defaults in place of zero values, or
// an error that names the field that is wrong.
func (o Options) withDefaults() (Options, error) {
	o.Listen = cmp.Or(o.Listen, DefaultListen)
	o.Retention = cmp.Or(o.Retention, DefaultRetention)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if o.Dir == "" {
		return o, errors.New("dir: missing; want a directory for the database")
	}
	if o.Retention < MinRetention || o.Retention > MaxRetention {
		return o, fmt.Errorf("retention: %s is out of range; want %s to %s", o.Retention, MinRetention, MaxRetention)
	}
	return o, nil
}

// Server is a running Prometheus. It is safe for concurrent use.
type Server struct {
	logger   *slog.Logger
	db       *tsdb.DB
	stats    *tsdb.DBStats
	engine   *promql.Engine
	parser   parser.Parser
	scraper  *scrape.Manager
	targets  chan map[string][]*targetgroup.Group
	listener net.Listener
	http     *http.Server
	registry *prometheus.Registry
	started  time.Time

	unpublish func()         // takes the metrics back out of Options.Registerer; nil when there is none
	serving   sync.WaitGroup // the HTTP server and the scrape manager
	closeOnce sync.Once
	closeErr  error
	closing   context.Context // done when Close begins
	close     context.CancelFunc
	// use is held for reading by whoever uses the parts above, so that none is
	// closed under its user: the database's files are mapped into memory, and
	// reading one that is closed would end the process.
	use    sync.RWMutex
	closed bool // guarded by use

	mu     sync.Mutex // guards what follows, and serialises SetScrapes
	config *config.Config
}

// Start opens the database in o.Dir, replays what an earlier server left there,
// and serves the HTTP API. The context bounds only the start; the server runs
// until Close. One directory serves one server at a time.
func Start(ctx context.Context, o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("embedded Prometheus: %w", err)
	}
	s := &Server{
		logger:   o.Logger,
		stats:    tsdb.NewDBStats(),
		parser:   parser.NewParser(parser.Options{}),
		targets:  make(chan map[string][]*targetgroup.Group),
		registry: prometheus.NewRegistry(),
		started:  time.Now(),
	}
	s.closing, s.close = context.WithCancel(context.Background())
	if err := s.start(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("start embedded Prometheus: %w", err), s.Close())
	}
	return s, nil
}

// start builds the parts from the bottom up. What it has built when it fails,
// Close takes down.
func (s *Server) start(ctx context.Context, o Options) error {
	// The port comes first: it is the part most likely to be taken.
	var err error
	if s.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", o.Listen); err != nil {
		return fmt.Errorf("listen on %q: %w", o.Listen, err)
	}
	if s.db, err = tsdb.Open(o.Dir, s.logger, s.registry, tsdbOptions(o.Retention), s.stats); err != nil {
		return fmt.Errorf("open database in %q: %w", o.Dir, err)
	}
	s.engine = promql.NewEngine(engineOptions(s.logger, s.registry, s.parser))
	if err := s.startScraper(); err != nil {
		return err
	}
	if err := s.SetScrapes(o.Scrapes); err != nil {
		return err
	}
	s.serve()
	if err := s.publish(o.Registerer); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return ctx.Err()
}

// tsdbOptions lets back-filled and scraped samples meet in the head of the
// database. The head takes samples in order as far back as half its block
// range; a block range of twice the retention makes that the retention, and
// keeps days of history out of compaction, which would cost more than the few
// megabytes it frees. The out-of-order window does the same for a series that
// was scraped before it was back-filled.
func tsdbOptions(retention time.Duration) *tsdb.Options {
	o := tsdb.DefaultOptions()
	o.RetentionDuration = retention.Milliseconds()
	o.MinBlockDuration = 2 * retention.Milliseconds()
	o.MaxBlockDuration = o.MinBlockDuration
	o.OutOfOrderTimeWindow = retention.Milliseconds()
	o.StripeSize = headStripes
	o.HeadChunksWriteBufferSize = chunks.MinWriteBufferSize
	o.WALCompression = compression.Snappy
	return o
}

func engineOptions(l *slog.Logger, reg prometheus.Registerer, p parser.Parser) promql.EngineOpts {
	return promql.EngineOpts{
		Logger:                   l,
		Reg:                      reg,
		Parser:                   p,
		MaxSamples:               maxQuerySamples,
		Timeout:                  queryTimeout,
		LookbackDelta:            lookbackDelta,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
		EnableAtModifier:         true,
		EnableNegativeOffset:     true,
	}
}

// URL is where the server answers, such as "http://127.0.0.1:9090", without a
// slash at its end.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Close stops scraping, waits a few seconds for requests in flight, frees the
// port, and writes out the database; what was appended is there at the next
// Start. Later calls return what the first did.
func (s *Server) Close() error {
	s.closeOnce.Do(func() { s.closeErr = s.shutdown() })
	return s.closeErr
}

func (s *Server) shutdown() error {
	if s.unpublish != nil {
		s.unpublish()
	}
	var errs []error
	switch {
	case s.http != nil:
		errs = append(errs, s.stopHTTP())
	case s.listener != nil:
		errs = append(errs, s.listener.Close())
	}
	s.close() // Ends the queries and the Append that still run.
	s.use.Lock()
	s.closed = true
	s.use.Unlock()
	if s.scraper != nil {
		s.targets <- nil // So that a late look at the targets starts no scraping after Stop.
		s.scraper.Stop()
	}
	s.serving.Wait()
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close embedded Prometheus: %w", err)
	}
	return nil
}

func (s *Server) stopHTTP() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return s.http.Close() // Whoever is still asking has had time enough.
	}
	return err
}

// errClosed says that the server was used after Close.
var errClosed = errors.New("embedded Prometheus is closed")

// acquire keeps the server from closing until release is called, unless it is
// closed already.
func (s *Server) acquire() (release func(), err error) {
	s.use.RLock()
	if s.closed {
		s.use.RUnlock()
		return nil, errClosed
	}
	return s.use.RUnlock, nil
}
