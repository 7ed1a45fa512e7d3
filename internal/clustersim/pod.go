package clustersim

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

const mebi = 1 << 20

// nodeCount is the number of nodes.
const nodeCount = 3

// node is a machine of the cluster, with the row of its root control group.
type node struct {
	name    string
	legacy  bool // its runtime calls the container that holds a pod's network POD
	rows    []*row
	cores   float64
	bytes   float64
	seconds float64
}

func newNode(i int, rng *rand.Rand) *node {
	n := &node{name: fmt.Sprintf("node-%c", 'a'+i), legacy: i == 0, seconds: 1e5 * (1 + rng.Float64())}
	n.rows = usageRows(
		func(elapsed float64) float64 { return n.seconds + n.cores*elapsed },
		func(float64) float64 { return n.bytes },
		identity{node: n.name, id: "/"})
	return n
}

// container is one run of a container.
type container struct {
	name    string
	image   string
	cores   float64 // during the current tick
	bytes   float64 // during the current tick
	seconds float64 // of CPU, until the current tick
	started time.Time
}

// pause is the index of the container that holds a pod's network.
const pause = 0

// pod is a running pod. The rows of its first container are those of the
// container that holds its network, which no query should count.
type pod struct {
	name       string
	uid        string
	node       *node
	revision   int // of the template it was made from
	started    time.Time
	until      time.Time // when it ends by itself; zero for never
	past       float64   // seconds of CPU of the runs of its containers that ended
	weight     float64   // its share of the load, beside those of the others
	containers []container
	rows       []*row // of cAdvisor
	state      []*row // of kube-state-metrics
}

func (p *pod) cores() (sum float64) {
	for i := range p.containers {
		sum += p.containers[i].cores
	}
	return sum
}

func (p *pod) bytes() (sum float64) {
	for i := range p.containers {
		sum += p.containers[i].bytes
	}
	return sum
}

// expose makes the rows of cAdvisor: one for the pod's control group and one
// for each container, twice, for CPU and memory.
func (p *pod) expose(namespace string, rng *rand.Rand) {
	p.rows = usageRows(
		func(elapsed float64) float64 {
			sum := p.past
			for i := range p.containers {
				sum += p.containers[i].seconds + p.containers[i].cores*elapsed
			}
			return sum
		},
		func(float64) float64 { return p.bytes() },
		identity{namespace: namespace, pod: p.name, node: p.node.name, id: p.slice()})
	for i := range p.containers {
		p.rows = append(p.rows, p.containerRows(namespace, i, rng)...)
	}
}

func (p *pod) containerRows(namespace string, i int, rng *rand.Rand) []*row {
	c := &p.containers[i]
	run := randomHex(rng, 32)
	of := identity{
		namespace: namespace, pod: p.name, node: p.node.name, container: c.name, image: c.image,
		id: p.slice() + "/cri-containerd-" + run + ".scope", name: run,
	}
	if i == pause && !p.node.legacy {
		of.container = ""
	}
	return usageRows(
		func(elapsed float64) float64 { return c.seconds + c.cores*elapsed },
		func(float64) float64 { return c.bytes },
		of)
}

// slice is the pod's control group.
func (p *pod) slice() string {
	return "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(p.uid, "-", "_") + ".slice"
}

// restart ends a container and starts it again: its counter begins anew, under
// a new id. It returns the rows that ended.
func (p *pod) restart(namespace string, i int, now time.Time, rng *rand.Rand) []*row {
	old := &p.containers[i]
	p.past += old.seconds
	*old = container{name: old.name, image: old.image, started: now}
	const perContainer = 2
	first := perContainer * (i + 1) // The pod's own rows come first.
	ended := append([]*row(nil), p.rows[first:first+perContainer]...)
	copy(p.rows[first:], p.containerRows(namespace, i, rng))
	return ended
}

// identity is what the labels of a row of cAdvisor tell.
type identity struct{ namespace, pod, node, container, image, id, name string }

func usageRows(seconds, bytes func(elapsed float64) float64, of identity) []*row {
	return []*row{
		newRow(cpuFamily, seconds, "container", of.container, "cpu", "total", "id", of.id, "image", of.image,
			"name", of.name, "namespace", of.namespace, "node", of.node, "pod", of.pod),
		newRow(memoryFamily, bytes, "container", of.container, "id", of.id, "image", of.image,
			"name", of.name, "namespace", of.namespace, "node", of.node, "pod", of.pod),
	}
}

// alphabet is that of the names that Kubernetes generates.
const alphabet = "bcdfghjklmnpqrstvwxz2456789"

func suffix(rng *rand.Rand, n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = alphabet[rng.IntN(len(alphabet))]
	}
	return string(out)
}

func randomHex(rng *rand.Rand, n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(rng.Uint32())
	}
	return hex.EncodeToString(out)
}

func randomUID(rng *rand.Rand) string {
	h := randomHex(rng, 16)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}
