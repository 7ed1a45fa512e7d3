package cnnlstm

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// reference is what testdata/reference.py wrote of one function.
type reference struct {
	Inputs    [][]float32
	Result    []float32
	Weigh     []float32 // the gradient of the result
	Gradients [][]float32
}

func readReference(t *testing.T, name string) reference {
	t.Helper()
	text, err := os.ReadFile("testdata/reference.json")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]reference{}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	r, ok := all[name]
	if !ok {
		t.Fatalf("the reference knows no %q", name)
	}
	return r
}

// near fails where got is not want within a tolerance, relative to numbers above
// one.
func near(t *testing.T, what string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s has %d numbers; want %d", what, len(got), len(want))
	}
	for i := range want {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= tolerance*max(1, math.Abs(float64(want[i])))) {
			t.Fatalf("%s[%d] = %v; want %v", what, i, got[i], want[i])
		}
	}
}

// layers are small cases of every layer, named as in the reference.
func layers() map[string]layer {
	return map[string]layer{
		"conv, stride 1": newAffine(affine{name: "conv", batch: 2, steps: 7, in: 3, kernel: 3, stride: 1, pad: 1, out: 4, rectify: true}, true),
		"conv, stride 2": newAffine(affine{name: "conv", batch: 2, steps: 8, in: 3, kernel: 4, stride: 2, pad: 1, out: 5, rectify: true}, true),
		"dense":          newAffine(affine{name: "dense", batch: 3, steps: 1, in: 4, kernel: 1, stride: 1, out: 2, dense: true}, true),
		"lstm":           newLSTM(lstm{name: "lstm", batch: 3, steps: 6, in: 4, hidden: 5}, true),
		"quantiles":      &quantiles{batch: 2, horizon: 3, levels: 5, median: 1},
		"pinball":        &pinball{batch: 2, horizon: 3, levels: levels32()},
	}
}

// through runs l as gorgonia does: it returns the result and the gradients of
// the sum of the result times weigh.
func through(t *testing.T, l layer, inputs [][]float32, weigh []float32) (result []float32, grads [][]float32) {
	t.Helper()
	g := gorgonia.NewGraph()
	var nodes, learning gorgonia.Nodes
	for i, shape := range l.takes() {
		value := tensor.New(tensor.WithShape(shape...), tensor.WithBacking(inputs[i]))
		n := gorgonia.NewTensor(g, tensor.Float32, len(shape), gorgonia.WithName(fmt.Sprint("in", i)), gorgonia.WithShape(shape...), gorgonia.WithValue(value))
		nodes = append(nodes, n)
		if l.learns()[i] {
			learning = append(learning, n)
		}
	}
	out, err := apply(l, true, nodes...)
	if err != nil {
		t.Fatal(err)
	}
	root := out
	if !l.gives().IsScalar() {
		w := gorgonia.NewConstant(tensor.New(tensor.WithShape(l.gives()...), tensor.WithBacking(weigh)), gorgonia.WithName("weigh"))
		root = gorgonia.Must(gorgonia.Sum(gorgonia.Must(gorgonia.HadamardProd(out, w))))
	}
	gs, err := gorgonia.Grad(root, learning...)
	if err != nil {
		t.Fatal(err)
	}
	machine := gorgonia.NewTapeMachine(g)
	for range 2 { // The second run must not see what the first left behind.
		machine.Reset()
		if err := machine.RunAll(); err != nil {
			t.Fatal(err)
		}
	}
	read := func(v gorgonia.Value) []float32 {
		all, err := floats([]gorgonia.Value{v})
		if err != nil {
			t.Fatal(err)
		}
		return all[0]
	}
	for _, n := range gs {
		grads = append(grads, read(n.Value()))
	}
	return read(out.Value()), grads
}

func TestLayersAgreeWithAnIndependentImplementation(t *testing.T) {
	for name, l := range layers() {
		t.Run(name, func(t *testing.T) {
			r := readReference(t, name)
			result, grads := through(t, l, r.Inputs, r.Weigh)
			near(t, "result", result, r.Result, 1e-5)
			if len(grads) != len(r.Gradients) {
				t.Fatalf("%d gradients; want %d", len(grads), len(r.Gradients))
			}
			for i, g := range grads {
				near(t, fmt.Sprintf("gradient %d", i), g, r.Gradients[i], 1e-5)
			}
		})
	}
}

// formula is the numbers that testdata/reference.py fills tensor i of a shape
// with.
func formula(i int, shape tensor.Shape) []float32 {
	factor := 0.1
	if len(shape) > 1 {
		factor = 1.5 / math.Sqrt(float64(shape[0]))
	}
	out := make([]float32, shape.TotalSize())
	for n := range out {
		out[n] = float32(math.Sin(float64(n)*0.7+float64(i)) * factor)
	}
	return out
}

func formulaWeights() [][]float32 {
	var data [][]float32
	for i, p := range parameters() {
		data = append(data, formula(i, p.shape))
	}
	return data
}

func TestNetworkAgreesWithAnIndependentImplementation(t *testing.T) {
	for _, training := range []bool{false, true} {
		g, err := newGraph(2, formulaWeights(), training)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range formula(20, tensor.Shape{2, steps, channels}) {
			g.x[i] = v * math.Sqrt2
		}
		for i, v := range formula(21, tensor.Shape{2, contextLen}) {
			g.context[i] = v * math.Sqrt2
		}
		for i := range g.keep {
			g.keep[i] = 1
		}
		if err := g.run(); err != nil {
			t.Fatal(err)
		}
		near(t, "result", g.quantiles(), readReference(t, "network").Result, 1e-5)
	}
}

// randomized fills the inputs of a graph for training.
func randomized(g *graph, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, data := range [][]float32{g.x, g.context, g.target} {
		for i := range data {
			data[i] = float32(rng.NormFloat64())
		}
	}
	drop(g.keep, 0.3, rng)
	for i := range g.there {
		g.there[i] = float32(min(1, rng.IntN(4))) // A quarter of the targets is missing.
	}
}

func TestGradientOfTheLossAgreesWithCentralDifferences(t *testing.T) {
	data := initial(rand.New(rand.NewPCG(3, 0)))
	g, err := newGraph(3, data, true)
	if err != nil {
		t.Fatal(err)
	}
	randomized(g, 4)
	at := func(weight *float32, v float32) float64 {
		was := *weight
		*weight = v
		defer func() { *weight = was }()
		if err := g.run(); err != nil {
			t.Fatal(err)
		}
		return preciseLoss(g)
	}
	if err := g.run(); err != nil {
		t.Fatal(err)
	}
	if got, want := g.lossValue(), preciseLoss(g); math.Abs(got-want) > 1e-6 {
		t.Fatalf("loss = %v; want %v", got, want)
	}
	rng := rand.New(rand.NewPCG(5, 0))
	for i, p := range parameters() {
		grad := append([]float32(nil), g.gradient(i)...)
		for range 6 {
			j := rng.IntN(len(grad))
			const h = 1e-3 // Larger steps cross kinks of the loss, smaller ones drown in rounding.
			w := data[i][j]
			want := (at(&data[i][j], w+h) - at(&data[i][j], w-h)) / (2 * h)
			if got := float64(grad[j]); math.Abs(got-want) > 3e-4+0.02*math.Abs(want) {
				t.Errorf("gradient of the loss by %s[%d] = %v; want %v", p.name, j, got, want)
			}
		}
		if err := g.run(); err != nil {
			t.Fatal(err)
		}
	}
}

// preciseLoss is the loss of the last run in 64-bit floats, written as the
// definition says.
func preciseLoss(g *graph) float64 {
	sum, n := 0.0, 0.0
	for i, y := range g.target {
		for k, p := range forecaster.Levels() {
			q := float64(g.quantiles()[i*len(forecaster.Levels())+k])
			sum += float64(g.there[i]) * max(p*(float64(y)-q), (p-1)*(float64(y)-q))
			n += float64(g.there[i])
		}
	}
	return sum / n
}

func TestGradientsOfLayersAgreeWithCentralDifferences(t *testing.T) {
	for name, l := range layers() {
		t.Run(name, func(t *testing.T) {
			r := readReference(t, name)
			_, grads := through(t, l, r.Inputs, r.Weigh)
			next := 0
			for i, learns := range l.learns() {
				if !learns {
					continue
				}
				compareWithDifferences(t, l, r, i, grads[next])
				next++
			}
		})
	}
}

func compareWithDifferences(t *testing.T, l layer, r reference, input int, grad []float32) {
	t.Helper()
	out := make([]float32, l.gives().TotalSize())
	sum := func() (s float64) {
		l.forward(r.Inputs, out)
		for i, v := range out {
			s += float64(v) * float64(r.Weigh[i])
		}
		return s
	}
	const h = 1e-3
	for j := range grad {
		was := r.Inputs[input][j]
		r.Inputs[input][j] = was + h
		up := sum()
		r.Inputs[input][j] = was - h
		want := (up - sum()) / (2 * h)
		r.Inputs[input][j] = was
		if got := float64(grad[j]); math.Abs(got-want) > 3e-3*max(1, math.Abs(want)) {
			t.Errorf("gradient by input %d at %d = %v; want %v", input, j, got, want)
		}
	}
}
