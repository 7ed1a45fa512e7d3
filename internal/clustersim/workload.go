package clustersim

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// The kinds of workloads.
const (
	deployment  = "Deployment"
	statefulSet = "StatefulSet"
	daemonSet   = "DaemonSet"
	cronJob     = "CronJob"
	job         = "Job"
)

const (
	rollEvery    = 30 * time.Second // from one replaced pod to the next
	scaleInAfter = 5 * time.Minute  // since the number of pods last changed
	keptJobs     = 3                // finished Jobs that a CronJob leaves behind
)

// workload is a controller and its pods.
type workload struct {
	spec      spec
	rng       *rand.Rand
	nodes     []*node
	born      time.Time
	rollouts  []time.Time
	load      load
	pods      []*pod
	finished  []*pod // of a CronJob: their usage is over, their owners are still told
	rows      []*row // owners of the ReplicaSets
	revision  int
	want      int       // pods
	scaled    time.Time // when want last changed
	rolled    time.Time // when a pod was last replaced
	nextNode  int
	replicaID string // name of the newest ReplicaSet
}

func newWorkload(sp spec, o Options, nodes []*node) *workload {
	rng := rand.New(rand.NewPCG(o.Seed, uint64(hash(sp.namespace+"/"+sp.name))))
	start := o.Now.Add(-o.History).Truncate(Tick)
	w := &workload{spec: sp, rng: rng, nodes: nodes, born: start, nextNode: rng.IntN(len(nodes)), load: load{rng: rng, burstEvery: sp.burstEvery}}
	if sp.age > 0 && sp.age < o.History {
		w.born = o.Now.Add(-sp.age).Truncate(Tick)
	}
	for _, ago := range sp.rollouts {
		w.rollouts = append(w.rollouts, o.Now.Add(-ago))
	}
	return w
}

// schedule begins the tick at t.
func (w *workload) schedule(t time.Time, rec *recorder) {
	if t.Before(w.born) {
		return
	}
	w.load.step(t)
	cores := max(w.spec.cores(&w.load), 0)
	switch w.spec.kind {
	case cronJob:
		w.finish(t, rec)
		if t.Truncate(w.spec.every).Equal(t) {
			w.start(t, w.spec.name+"-"+minutes(t))
		}
	case job:
		if len(w.pods) == 0 {
			w.start(t, w.spec.name)
		}
	default:
		w.scale(t, cores, rec)
		w.roll(t, rec)
	}
	w.use(t, cores, rec)
}

// scale makes as many pods as are wanted.
func (w *workload) scale(t time.Time, cores float64, rec *recorder) {
	want := w.spec.replicas
	if w.spec.kind == daemonSet {
		want = len(w.nodes)
	}
	if w.spec.perPod > 0 {
		want = w.wanted(t, cores)
	}
	w.revise(t)
	for len(w.pods) < want {
		w.start(t, w.replicaID)
	}
	for len(w.pods) > want {
		w.stop(len(w.pods)-1, rec)
	}
}

// wanted follows the load: out at once, in by one pod at a time and only after
// a while with room to spare.
func (w *workload) wanted(t time.Time, cores float64) int {
	need := func(cores float64) int {
		return min(max(int(math.Ceil(cores/w.spec.perPod)), w.spec.replicas), maxReplicas)
	}
	switch {
	case need(cores) > w.want:
		w.want, w.scaled = need(cores), t
	case need(cores*1.2) < w.want && t.Sub(w.scaled) >= scaleInAfter:
		w.want, w.scaled = w.want-1, t
	}
	return w.want
}

// maxReplicas bounds a scale-out.
const maxReplicas = 10

// roll replaces the pods of an older revision, one after the other.
func (w *workload) roll(t time.Time, rec *recorder) {
	if t.Sub(w.rolled) < rollEvery {
		return
	}
	for i, p := range w.pods {
		if p.revision != w.revision {
			w.stop(i, rec)
			w.start(t, w.replicaID)
			w.rolled = t
			return
		}
	}
}

// revise makes the ReplicaSet of a revision that began.
func (w *workload) revise(t time.Time) {
	revision := 1
	for _, at := range w.rollouts {
		if !at.After(t) {
			revision++
		}
	}
	if revision == w.revision {
		return
	}
	w.revision = revision
	w.replicaID = w.spec.name
	if w.spec.kind == deployment {
		w.replicaID += "-" + templateHash(w.spec.namespace+"/"+w.spec.name, revision)
		w.rows = append(w.rows, newRow(replicaSetFamily, one, "namespace", w.spec.namespace, "owner_is_controller", "true",
			"owner_kind", deployment, "owner_name", w.spec.name, "replicaset", w.replicaID))
	}
}

// start makes a pod, owned by the object of the given name.
func (w *workload) start(t time.Time, owner string) {
	p := &pod{
		name: owner + "-" + suffix(w.rng, 5), uid: randomUID(w.rng), revision: w.revision,
		started: t, weight: 0.85 + 0.3*w.rng.Float64(), node: w.nodes[w.nextNode],
	}
	w.nextNode = (w.nextNode + 1) % len(w.nodes)
	switch w.spec.kind {
	case statefulSet:
		name := func(i int) string { return w.spec.name + "-" + strconv.Itoa(i) }
		p.name = name(w.free(func(i int, p *pod) bool { return p.name == name(i) }))
	case daemonSet:
		p.node = w.nodes[w.free(func(i int, p *pod) bool { return p.node == w.nodes[i] })]
	case cronJob:
		p.until = t.Add(w.spec.lasts)
	}
	p.containers = append(p.containers, container{name: "POD", image: "registry.k8s.io/pause:3.10", bytes: 0.5 * mebi, started: t})
	for _, part := range w.spec.parts {
		p.containers = append(p.containers, container{name: part.name, image: part.image, started: t})
	}
	p.expose(w.spec.namespace, w.rng)
	p.state = w.owners(p, owner)
	w.pods = append(w.pods, p)
}

// free returns the lowest ordinal that no pod has.
func (w *workload) free(has func(i int, p *pod) bool) int {
	for i := 0; ; i++ {
		if !slices.ContainsFunc(w.pods, func(p *pod) bool { return has(i, p) }) {
			return i
		}
	}
}

// owners makes the rows of kube-state-metrics that come and go with a pod.
func (w *workload) owners(p *pod, owner string) []*row {
	kind := map[string]string{deployment: "ReplicaSet", cronJob: job}[w.spec.kind]
	if kind == "" {
		kind = w.spec.kind
	}
	rows := []*row{newRow(podFamily, one, "namespace", w.spec.namespace, "owner_is_controller", "true",
		"owner_kind", kind, "owner_name", owner, "pod", p.name, "uid", p.uid)}
	switch w.spec.kind {
	case cronJob:
		rows = append(rows, newRow(jobFamily, one, "job_name", owner, "namespace", w.spec.namespace,
			"owner_is_controller", "true", "owner_kind", cronJob, "owner_name", w.spec.name))
	case job:
		rows = append(rows, newRow(jobFamily, one, "job_name", owner, "namespace", w.spec.namespace,
			"owner_is_controller", "", "owner_kind", "", "owner_name", ""))
	}
	return rows
}

// stop removes a pod and all that is told of it.
func (w *workload) stop(i int, rec *recorder) {
	p := w.pods[i]
	rec.end(p.rows...)
	rec.end(p.state...)
	w.pods = slices.Delete(w.pods, i, i+1)
}

// finish ends the pods whose time is over.
func (w *workload) finish(t time.Time, rec *recorder) {
	for len(w.pods) > 0 && !w.pods[0].until.After(t) {
		rec.end(w.pods[0].rows...)
		w.finished = append(w.finished, w.pods[0])
		w.pods = slices.Delete(w.pods, 0, 1)
	}
	for len(w.finished) > keptJobs {
		rec.end(w.finished[0].state...)
		w.finished = slices.Delete(w.finished, 0, 1)
	}
}

// use shares the load among the pods and their containers.
func (w *workload) use(t time.Time, cores float64, rec *recorder) {
	total := 0.0
	for _, p := range w.pods {
		total += p.weight
	}
	for _, p := range w.pods {
		for i, part := range w.spec.parts {
			c := &p.containers[i+1] // The first holds the network.
			c.cores = cores * p.weight / total * part.share
			c.bytes = part.bytes(&w.load, c.cores, t.Sub(c.started))
			if part.limit > 0 && c.bytes > part.limit {
				rec.end(p.restart(w.spec.namespace, i+1, t, w.rng)...)
				c.bytes = part.bytes(&w.load, 0, 0)
			}
		}
	}
}

func hash(s string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s)) // Never fails.
	return h.Sum32()
}

// templateHash is what the name of a Deployment's ReplicaSet ends with: a hash
// of its template as a decimal number, spelt in the alphabet of generated names.
func templateHash(name string, revision int) string {
	const shortest = 8
	digits := ""
	for salt := 0; len(digits) < shortest; salt++ {
		digits = strconv.FormatUint(uint64(hash(name+"@"+strconv.Itoa(revision)+"/"+strconv.Itoa(salt))), 10)
	}
	out := []byte(digits)
	for i, c := range out {
		out[i] = alphabet[int(c)%len(alphabet)]
	}
	return string(out)
}
