package clustersim

import (
	"math"
	"math/rand/v2"
	"time"
)

// load is what drives a workload: the time of the day and of the week in UTC,
// and chance.
type load struct {
	rng        *rand.Rand
	burstEvery time.Duration // on average; zero for no bursts

	t      time.Time
	noise  float64 // wanders around 0 within about 2, for some minutes to each side
	jitter float64 // around 0 within about 2, anew with each tick
	burst  float64 // 0 most of the time; some units high at first, fading within minutes
}

const (
	noiseKept = 0.97 // of the noise, from tick to tick
	burstKept = 0.96 // of a burst, from tick to tick
)

// step moves to the tick at t.
func (l *load) step(t time.Time) {
	l.t = t
	l.jitter = l.rng.NormFloat64()
	l.noise = noiseKept*l.noise + math.Sqrt(1-noiseKept*noiseKept)*l.rng.NormFloat64()
	l.burst *= burstKept
	chance, height := l.rng.Float64(), 1+l.rng.ExpFloat64() // Drawn in any case, so that equal seeds give equal streams.
	if l.burstEvery > 0 && chance < float64(Tick)/float64(l.burstEvery) {
		l.burst += height
	}
}

// peak is 1 at the given hour of the day and falls off to both sides within
// width hours.
func (l *load) peak(hour, width float64) float64 {
	d := math.Abs(float64(l.t.Hour()) + float64(l.t.Minute())/60 + float64(l.t.Second())/3600 - hour)
	d = min(d, 24-d) / width
	return math.Exp(-d * d / 2)
}

// day rises from 0 at four in the morning to 1 in the afternoon.
func (l *load) day() float64 {
	h := float64(l.t.Hour()) + float64(l.t.Minute())/60 + float64(l.t.Second())/3600
	return (1 - math.Cos((h-4)/24*2*math.Pi)) / 2
}

// weekend returns factor on Saturday and Sunday and 1 on other days.
func (l *load) weekend(factor float64) float64 {
	if d := l.t.Weekday(); d == time.Saturday || d == time.Sunday {
		return factor
	}
	return 1
}

// ramp rises from 0 to 1 once in every period.
func (l *load) ramp(period time.Duration) float64 {
	return float64(l.t.Sub(l.t.Truncate(period))) / float64(period)
}

// vary multiplies a value by the noise and the jitter, each by the given part.
func (l *load) vary(v, noise, jitter float64) float64 {
	return v * max(1+noise*l.noise+jitter*l.jitter, 0.1)
}

// spec says how a workload behaves.
type spec struct {
	namespace, name, kind string
	parts                 []part
	cores                 func(*load) float64 // of all pods together
	replicas              int                 // at least, where perPod is set
	perPod                float64             // cores that one more pod is started for
	age                   time.Duration       // how old it is when the history ends; the whole history when zero
	rollouts              []time.Duration     // before the end of the history
	burstEvery            time.Duration
	every, lasts          time.Duration // of a CronJob
}

// part is a container of a pod.
type part struct {
	name, image string
	share       float64 // of the pod's CPU
	bytes       func(l *load, cores float64, age time.Duration) float64
	limit       float64 // of memory, at which it is killed; zero for none
}

// steady is memory that follows the load.
func steady(base, perCore float64) func(*load, float64, time.Duration) float64 {
	return func(l *load, cores float64, _ time.Duration) float64 {
		return pages(base*(1+0.004*l.noise) + perCore*cores)
	}
}

// leak is memory that grows without end.
func leak(base, perHour float64) func(*load, float64, time.Duration) float64 {
	return func(l *load, _ float64, age time.Duration) float64 {
		return pages(base*(1+0.01*l.noise) + perHour*age.Hours())
	}
}

// filling is memory that grows until a cache is full.
func filling(base, cache float64, half time.Duration) func(*load, float64, time.Duration) float64 {
	return func(l *load, _ float64, age time.Duration) float64 {
		return pages(base*(1+0.004*l.noise) + cache*(1-math.Exp2(-float64(age)/float64(half))))
	}
}

// steps is flat memory that jumps twice a day.
func steps(base, step float64) func(*load, float64, time.Duration) float64 {
	return func(l *load, _ float64, _ time.Duration) float64 {
		const period, levels = 11 * 3600, 5
		return pages(base + step*float64(l.t.Unix()/period%levels))
	}
}

// pages rounds to whole pages of memory.
func pages(bytes float64) float64 { return math.Round(bytes/4096) * 4096 }

// only is the parts of a pod with one container.
func only(image string, bytes func(*load, float64, time.Duration) float64) []part {
	return []part{{name: "app", image: image, share: 1, bytes: bytes}}
}

// specs is what runs in the cluster.
func specs() []spec {
	const hour = time.Hour
	return []spec{
		{ // A daily rhythm.
			namespace: "shop", name: "frontend", kind: deployment, replicas: 3, rollouts: []time.Duration{30 * hour, 5 * hour},
			parts: only("registry.example/shop/frontend:2", steady(140*mebi, 60*mebi)),
			cores: func(l *load) float64 { return l.vary(0.5+2.2*l.day()*l.weekend(1.2), 0.05, 0.02) },
		},
		{ // Two peaks on a working day, at lunch and in the evening.
			namespace: "shop", name: "checkout", kind: deployment, replicas: 2, rollouts: []time.Duration{50 * hour},
			parts: only("registry.example/shop/checkout:7", steady(220*mebi, 80*mebi)),
			cores: func(l *load) float64 {
				return l.vary(0.15+(1.4*l.peak(12.5, 1.2)+1.1*l.peak(19, 1.6))*l.weekend(0.6), 0.06, 0.03)
			},
		},
		{ // As many pods as the load needs.
			namespace: "shop", name: "cart", kind: deployment, replicas: 2, perPod: 0.6, rollouts: []time.Duration{27 * hour},
			parts: only("registry.example/shop/cart:4", steady(180*mebi, 120*mebi)),
			cores: func(l *load) float64 { return l.vary(0.7+3.8*l.day(), 0.04, 0.02) },
		},
		{ // Bursts.
			namespace: "shop", name: "search", kind: deployment, replicas: 2, burstEvery: 100 * time.Minute,
			parts: only("registry.example/shop/search:11", steady(600*mebi, 90*mebi)),
			cores: func(l *load) float64 { return l.vary(0.3+0.5*l.day(), 0.05, 0.03) + 0.9*l.burst },
		},
		{ // Two containers.
			namespace: "shop", name: "catalog", kind: deployment, replicas: 2, rollouts: []time.Duration{12 * hour},
			parts: []part{
				{name: "app", image: "registry.example/shop/catalog:3", share: 0.8, bytes: filling(250*mebi, 200*mebi, 3*hour)},
				{name: "proxy", image: "registry.example/mesh/proxy:1", share: 0.2, bytes: steady(48*mebi, 10*mebi)},
			},
			cores: func(l *load) float64 { return l.vary(0.4+0.9*l.day(), 0.05, 0.02) },
		},
		{ // Memory that leaks until the container is killed.
			namespace: "shop", name: "recommender", kind: deployment, replicas: 1,
			parts: []part{{name: "app", image: "registry.example/shop/recommender:5", share: 1, bytes: leak(190*mebi, 110*mebi), limit: 1024 * mebi}},
			cores: func(l *load) float64 { return l.vary(0.2+0.4*l.day(), 0.08, 0.03) },
		},
		{ // Flat memory with rare steps.
			namespace: "shop", name: "payments", kind: deployment, replicas: 2,
			parts: only("registry.example/shop/payments:9", steps(320*mebi, 40*mebi)),
			cores: func(l *load) float64 { return l.vary(0.1+0.5*l.day()*l.weekend(0.8), 0.05, 0.03) },
		},
		{ // Next to nothing.
			namespace: "shop", name: "admin", kind: deployment, replicas: 1,
			parts: only("registry.example/shop/admin:1", steady(64*mebi, 0)),
			cores: func(l *load) float64 { return l.vary(0.002, 0.1, 0.2) },
		},
		{ // New.
			namespace: "shop", name: "reviews", kind: deployment, replicas: 2, age: 20 * time.Minute,
			parts: only("registry.example/shop/reviews:1", filling(120*mebi, 60*mebi, 10*time.Minute)),
			cores: func(l *load) float64 { return l.vary(0.35, 0.1, 0.05) },
		},
		{
			namespace: "shop", name: "postgres", kind: statefulSet, replicas: 2,
			parts: only("registry.example/postgres:17", filling(400*mebi, 1200*mebi, 8*hour)),
			cores: func(l *load) float64 { return l.vary(0.3+0.8*l.day(), 0.06, 0.04) },
		},
		{
			namespace: "shop", name: "log-agent", kind: daemonSet, rollouts: []time.Duration{40 * hour},
			parts: only("registry.example/log-agent:6", steady(90*mebi, 100*mebi)),
			cores: func(l *load) float64 { return l.vary(0.1+0.15*l.day(), 0.05, 0.05) },
		},
		{ // Six minutes of every thirty.
			namespace: "batch", name: "report", kind: cronJob, every: 30 * time.Minute, lasts: 6 * time.Minute,
			parts: only("registry.example/batch/report:2", leak(150*mebi, 2400*mebi)),
			cores: func(l *load) float64 { return l.vary(1.5, 0.03, 0.04) },
		},
		{ // Works through one heap after the other, each harder towards its end.
			namespace: "batch", name: "import", kind: job, age: 40 * hour,
			parts: only("registry.example/batch/import:1", steady(300*mebi, 250*mebi)),
			cores: func(l *load) float64 { return l.vary(0.2+1.8*l.ramp(2*hour), 0.04, 0.03) },
		},
		{ // Bursts on top of a nightly peak.
			namespace: "batch", name: "queue-worker", kind: deployment, replicas: 2, burstEvery: 3 * hour,
			parts: only("registry.example/batch/queue-worker:3", steady(256*mebi, 150*mebi)),
			cores: func(l *load) float64 { return l.vary(0.1+1.3*l.peak(2.5, 1.3), 0.06, 0.03) + 0.6*l.burst },
		},
	}
}
