package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// config is the configuration file. Every key is described in
// docs/configuration.md.
type config struct {
	Prometheus   prometheusConfig `yaml:"prometheus"`
	Model        modelConfig      `yaml:"model"`
	Sync         syncConfig       `yaml:"sync"`
	DefaultRules bool             `yaml:"default_rules"`
	Rules        []ruleConfig     `yaml:"rules"`
}

type prometheusConfig struct {
	URL           string                      `yaml:"url"`
	Timeout       model.Duration              `yaml:"timeout"`
	MaxConcurrent int                         `yaml:"max_concurrent"`
	Params        map[string][]string         `yaml:"params"`
	HTTPClient    promconfig.HTTPClientConfig `yaml:"http_client"`
}

type modelConfig struct {
	Weights     string  `yaml:"weights"`
	DropoutRate float64 `yaml:"dropout_rate"`
}

type syncConfig struct {
	IntervalHours float64 `yaml:"interval_hours"`
}

type ruleConfig struct {
	Metric   string           `yaml:"metric"`
	Expr     string           `yaml:"expr"`
	With     string           `yaml:"with"`
	Step     model.Duration   `yaml:"step"`
	Lookback model.Duration   `yaml:"lookback"`
	Horizon  model.Duration   `yaml:"horizon"`
	Lead     model.Duration   `yaml:"lead"`
	Level    float64          `yaml:"level"`
	MaxAge   model.Duration   `yaml:"max_age"`
	Floor    forecaster.Floor `yaml:"floor"`
}

// defaultConfig is what an empty file means.
func defaultConfig() config {
	return config{
		Prometheus: prometheusConfig{
			Timeout:       model.Duration(30 * time.Second),
			MaxConcurrent: 4,
			HTTPClient:    promconfig.DefaultHTTPClientConfig,
		},
		Model:        modelConfig{DropoutRate: 0.3},
		Sync:         syncConfig{IntervalHours: 6},
		DefaultRules: true,
	}
}

// loadConfig reads and checks a configuration file. An empty name gives the
// defaults.
func loadConfig(name string) (config, error) {
	if name == "" {
		return defaultConfig(), nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return config{}, fmt.Errorf("read configuration: %w", err)
	}
	c, err := parseConfig(data)
	if err != nil {
		return config{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	c.Prometheus.HTTPClient.SetDirectory(filepath.Dir(name))
	return c, nil
}

// maxConfigBytes bounds the configuration file.
const maxConfigBytes = 1 << 20

func parseConfig(data []byte) (config, error) {
	if len(data) > maxConfigBytes {
		return config{}, fmt.Errorf("%d bytes are too many; want at most %d", len(data), maxConfigBytes)
	}
	c := defaultConfig()
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	switch err := d.Decode(&c); {
	case errors.Is(err, io.EOF): // An empty file: all defaults.
	case err != nil:
		return config{}, explainYAML(err)
	default:
		if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return config{}, errors.New("more than one YAML document; want one")
		}
	}
	return c, c.validate()
}

func (c config) validate() error {
	var errs []error
	if u, err := url.Parse(c.Prometheus.URL); c.Prometheus.URL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		errs = append(errs, fmt.Errorf("prometheus.url: %q is no URL; want one such as http://prometheus:9090", c.Prometheus.URL))
	}
	if c.Prometheus.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("prometheus.timeout: %s is out of range; want more than 0s", c.Prometheus.Timeout))
	}
	if c.Prometheus.MaxConcurrent < 1 || c.Prometheus.MaxConcurrent > 64 {
		errs = append(errs, fmt.Errorf("prometheus.max_concurrent: %d is out of range; want 1 to 64", c.Prometheus.MaxConcurrent))
	}
	if r := c.Model.DropoutRate; !(r >= 0 && r < 1) {
		errs = append(errs, fmt.Errorf("model.dropout_rate: %v is out of range; want at least 0 and less than 1", r))
	}
	if h := c.Sync.IntervalHours; !(h > 0 && h <= 24*31) {
		errs = append(errs, fmt.Errorf("sync.interval_hours: %v is out of range; want more than 0 and at most 744", h))
	}
	if err := forecaster.CheckRules(c.rules()); err != nil {
		errs = append(errs, fmt.Errorf("rules: %w", err))
	}
	return errors.Join(errs...)
}

// rules returns the rules in force, defaults filled in: the built-in ones, if
// wanted, and those of the file, which replace a built-in one of their name.
func (c config) rules() []forecaster.Rule {
	var out []forecaster.Rule
	if c.DefaultRules {
		for _, r := range forecaster.DefaultRules() {
			if !slices.ContainsFunc(c.Rules, func(own ruleConfig) bool { return own.Metric == r.Metric }) {
				out = append(out, r.WithDefaults())
			}
		}
	}
	for _, r := range c.Rules {
		out = append(out, forecaster.Rule{
			Metric: r.Metric, Expr: r.Expr, With: r.With, Level: r.Level, Floor: r.Floor,
			Step: time.Duration(r.Step), Lookback: time.Duration(r.Lookback), Horizon: time.Duration(r.Horizon),
			Lead: time.Duration(r.Lead), MaxAge: time.Duration(r.MaxAge),
		}.WithDefaults())
	}
	return out
}

var unknownField = regexp.MustCompile(`^line (\d+): field (\S+) not found in type (\S+)$`)

// explainYAML turns what the YAML library says into what a person can act on.
func explainYAML(err error) error {
	var faults *yaml.TypeError
	if !errors.As(err, &faults) {
		return err
	}
	keys := map[string][]string{}
	collectKeys(reflect.TypeFor[config](), keys)
	var errs []error
	for _, fault := range faults.Errors {
		if m := unknownField.FindStringSubmatch(fault); m != nil {
			fault = fmt.Sprintf("line %s: unknown key %q%s", m[1], m[2], suggestion(m[2], keys[m[3]]))
		}
		errs = append(errs, errors.New(fault))
	}
	return errors.Join(errs...)
}

// collectKeys notes the YAML keys of t and of every struct in it by the name
// that the YAML library gives their type.
func collectKeys(t reflect.Type, keys map[string][]string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || keys[t.String()] != nil {
		return
	}
	names := []string{}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	keys[t.String()] = names
	// Types such as HTTPClientConfig decode into a local twin of that name.
	twin := path.Base(t.PkgPath()) + ".plain"
	keys[twin] = append(keys[twin], names...)
	for _, f := range reflect.VisibleFields(t) {
		collectKeys(f.Type, keys)
	}
}

// suggestion names the nearest key when it is near enough to be meant, else all
// that there are.
func suggestion(key string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	slices.Sort(known)
	known = slices.Compact(known)
	nearest := slices.MinFunc(known, func(a, b string) int {
		return cmp.Compare(levenshtein.ComputeDistance(key, a), levenshtein.ComputeDistance(key, b))
	})
	if levenshtein.ComputeDistance(key, nearest) <= 2+len(key)/4 {
		return fmt.Sprintf("; did you mean %q?", nearest)
	}
	return "; want one of " + strings.Join(known, ", ")
}
