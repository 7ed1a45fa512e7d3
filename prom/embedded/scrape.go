package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/scrape"
)

// Scrape is a target to scrape.
type Scrape struct {
	Job      string        // label job; each job once
	Target   string        // host:port, and label instance
	Path     string        // "/metrics" when empty
	Interval time.Duration // 15 s when zero; at least a millisecond
	// HonorLabels keeps the labels job and instance that the target itself sets.
	HonorLabels bool
	// HonorTimestamps keeps the times that the target itself sets.
	HonorTimestamps bool
}

// Defaults of a Scrape.
const (
	defaultInterval  = 15 * time.Second
	defaultPath      = "/metrics"
	maxScrapeTimeout = 10 * time.Second
)

// withDefaults returns the scrape with defaults in place of zero values, or an
// error that names the field that is wrong.
func (s Scrape) withDefaults() (Scrape, error) {
	if s.Interval == 0 {
		s.Interval = defaultInterval
	}
	if s.Path == "" {
		s.Path = defaultPath
	}
	if s.Job == "" {
		return s, errors.New("job: missing; want a name")
	}
	if _, _, err := net.SplitHostPort(s.Target); err != nil {
		return s, fmt.Errorf("target: %w; want host:port", err)
	}
	if !strings.HasPrefix(s.Path, "/") {
		return s, fmt.Errorf("path: %q does not begin with a slash", s.Path)
	}
	if s.Interval < time.Millisecond {
		return s, fmt.Errorf("interval: %s is out of range; want at least 1ms", s.Interval)
	}
	return s, nil
}

// startScraper starts the scrape manager with nothing to scrape.
func (s *Server) startScraper() error {
	var err error
	s.scraper, err = scrape.NewManager(&scrape.Options{
		DiscoveryReloadInterval:  model.Duration(targetSyncPeriod),
		DiscoveryReloadOnStartup: true,
	}, s.logger, nil, nil, s.db, s.registry)
	if err != nil {
		return fmt.Errorf("make scrape manager: %w", err)
	}
	s.serving.Go(func() {
		// It ends with Stop and has no error to return.
		_ = s.scraper.Run(s.targets)
	})
	return nil
}

// SetScrapes replaces what is scraped. A target is first scraped within about
// one interval from then. The series of a job that is gone end after the five
// minutes that PromQL looks back: as in Prometheus, they get no stale markers.
// On an error nothing changes.
func (s *Server) SetScrapes(scrapes []Scrape) error {
	cfg, targets, err := s.scrapeConfig(scrapes)
	if err != nil {
		return err
	}
	release, err := s.acquire()
	if err != nil {
		return err
	}
	defer release()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config != nil || len(scrapes) > 0 { // Applying looks up the host's name, which may take a while.
		if err := s.scraper.ApplyConfig(cfg); err != nil {
			return fmt.Errorf("apply scrape configuration: %w", err)
		}
	}
	s.config = cfg
	s.targets <- targets // The manager takes them until it is stopped, which acquire has put off.
	return nil
}

// scrapeConfig goes through Prometheus' own configuration file, of which JSON
// is a dialect, so that its checks and defaults hold here too.
func (s *Server) scrapeConfig(scrapes []Scrape) (*config.Config, map[string][]*targetgroup.Group, error) {
	entries := make([]map[string]any, 0, len(scrapes))
	targets := make(map[string][]*targetgroup.Group, len(scrapes))
	for i, sc := range scrapes {
		sc, err := sc.withDefaults()
		if err != nil {
			return nil, nil, fmt.Errorf("scrape %d: %w", i, err)
		}
		entries = append(entries, map[string]any{
			"job_name":         sc.Job,
			"metrics_path":     sc.Path,
			"scrape_interval":  model.Duration(sc.Interval).String(),
			"scrape_timeout":   model.Duration(min(sc.Interval, maxScrapeTimeout)).String(),
			"honor_labels":     sc.HonorLabels,
			"honor_timestamps": sc.HonorTimestamps,
		})
		targets[sc.Job] = []*targetgroup.Group{{
			Source:  sc.Job,
			Targets: []model.LabelSet{{model.AddressLabel: model.LabelValue(sc.Target)}},
		}}
	}
	file, err := json.Marshal(map[string]any{"scrape_configs": entries})
	if err != nil {
		return nil, nil, fmt.Errorf("write scrape configuration: %w", err)
	}
	cfg, err := config.Load(string(file), s.logger)
	if err != nil {
		return nil, nil, fmt.Errorf("scrape configuration: %w", err)
	}
	return cfg, targets, nil
}
