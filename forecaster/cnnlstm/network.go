package cnnlstm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
	"github.com/kubeforecaster/kubeforecaster/weights"
)

// Sizes of the network.
const (
	filters1 = 32
	kernel1  = 3
	filters2 = 64
	kernel2  = 4
	stride2  = 2
	halved   = steps / stride2 // steps after the second convolution
	hidden   = 64
	wide     = 128 // of the head
)

// median is the position of level 0.5.
var median = slices.Index(forecaster.Levels(), 0.5)

func outputs() int { return horizon * len(forecaster.Levels()) }

// parameter is one tensor of weights.
type parameter struct {
	name  string
	shape tensor.Shape
	fan   int // inputs that a weight of it is summed over; 0 for a bias
}

func (p parameter) size() int { return p.shape.TotalSize() }

// parameters lists the tensors of the network, in the order in which the graph
// takes them. A matrix is inputs x outputs; that of a convolution has kernel x
// channels inputs, by place, then by channel.
func parameters() []parameter {
	matrix := func(name string, in, out int) parameter {
		return parameter{name, tensor.Shape{in, out}, in}
	}
	bias := func(name string, n int) parameter { return parameter{name, tensor.Shape{n}, 0} }
	return []parameter{
		matrix("conv1.weight", kernel1*channels, filters1), bias("conv1.bias", filters1),
		matrix("conv2.weight", kernel2*filters1, filters2), bias("conv2.bias", filters2),
		matrix("lstm.input", filters2, 4*hidden), matrix("lstm.state", hidden, 4*hidden), bias("lstm.bias", 4*hidden),
		matrix("head1.weight", hidden+contextLen, wide), bias("head1.bias", wide),
		matrix("head2.weight", wide, outputs()), bias("head2.bias", outputs()),
	}
}

// Parameters is the number of weights of the network.
func Parameters() int {
	n := 0
	for _, p := range parameters() {
		n += p.size()
	}
	return n
}

// initial draws weights uniformly with a variance of one over the inputs, biases
// of zero, and a forget gate that starts open, so that the past is not lost
// before anything is learnt.
func initial(rng *rand.Rand) [][]float32 {
	var out [][]float32
	for _, p := range parameters() {
		data := make([]float32, p.size())
		if p.fan > 0 {
			bound := math.Sqrt(3 / float64(p.fan))
			for i := range data {
				data[i] = float32((2*rng.Float64() - 1) * bound)
			}
		}
		if p.name == "lstm.bias" {
			for i := hidden; i < 2*hidden; i++ {
				data[i] = 1
			}
		}
		out = append(out, data)
	}
	return out
}

// tensorsOf gives data in the order of parameters the names of a file.
func tensorsOf(data [][]float32, prefix string, into map[string]weights.Tensor) {
	for i, p := range parameters() {
		into[prefix+p.name] = weights.Tensor{Shape: p.shape, Data: data[i]}
	}
}

// dataOfFile is the reverse of tensorsOf.
func dataOfFile(f *weights.File, prefix string) ([][]float32, error) {
	var out [][]float32
	for _, p := range parameters() {
		t, err := f.Tensor(prefix+p.name, p.shape...)
		if err != nil {
			return nil, err
		}
		out = append(out, t.Data)
	}
	return out, nil
}

// graph is the network for a batch of fixed size, compiled. Its inputs are
// written in place; run then fills its outputs. It shares the weights that it was
// made with, which may change between runs, and is for one goroutine at a time.
type graph struct {
	batch   int
	x       []float32 // batch x steps x channels
	context []float32 // batch x contextLen
	keep    []float32 // batch x hidden; factors of the hidden state, for dropout
	target  []float32 // batch x horizon
	there   []float32 // batch x horizon; 1 where there is a target

	machine gorgonia.VM
	result  *gorgonia.Node
	loss    *gorgonia.Node
	params  gorgonia.Nodes // in the order of parameters
	grads   gorgonia.Nodes // in the same order
}

// newGraph builds the graph: for quantiles alone, or for training with their loss
// and its gradient. gorgonia panics where it meets what it did not expect; that
// becomes an error.
func newGraph(batch int, data [][]float32, training bool) (g *graph, err error) {
	defer caught(buildError{}, &err)
	g = &graph{batch: batch}
	b := builder{graph: gorgonia.NewGraph(), training: training}
	x := b.input("x", &g.x, batch, steps, channels)
	context := b.input("context", &g.context, batch, contextLen)
	g.params = b.weights(data)
	hiddenState := b.hidden(batch, x, g.params)
	if training {
		hiddenState = b.product(hiddenState, b.input("keep", &g.keep, batch, hidden))
	}
	g.result = b.head(batch, hiddenState, context, g.params)
	if training {
		target, there := b.input("target", &g.target, batch, horizon), b.input("there", &g.there, batch, horizon)
		g.loss = b.add(&pinball{batch: batch, horizon: horizon, levels: levels32()}, g.result, target, there)
		g.grads = b.differentiate(g.loss, g.params)
	}
	if b.err != nil {
		return nil, b.err
	}
	g.machine = gorgonia.NewTapeMachine(b.graph)
	return g, nil
}

type buildError struct{}

func (buildError) String() string { return "build graph" }

func levels32() []float32 {
	var out []float32
	for _, l := range forecaster.Levels() {
		out = append(out, float32(l))
	}
	return out
}

// run computes everything from the inputs as they are now.
func (g *graph) run() (err error) {
	defer caught(buildError{}, &err)
	g.machine.Reset()
	if err := g.machine.RunAll(); err != nil {
		return fmt.Errorf("run network: %w", err)
	}
	return nil
}

// quantiles is the result of the last run: batch x horizon x levels, in units of
// each window's scale. The next run overwrites it.
func (g *graph) quantiles() []float32 { return g.result.Value().Data().([]float32) }

// lossValue is the mean pinball loss of the last run.
func (g *graph) lossValue() float64 { return float64(g.loss.Value().Data().(float32)) }

// gradient is that of the loss with respect to parameter i.
func (g *graph) gradient(i int) []float32 { return g.grads[i].Value().Data().([]float32) }

// builder adds nodes to a graph until one fails; then it adds nothing more.
type builder struct {
	graph    *gorgonia.ExprGraph
	training bool
	err      error
}

// input adds a node whose value is the slice that it puts into data.
func (b *builder) input(name string, data *[]float32, shape ...int) *gorgonia.Node {
	*data = make([]float32, tensor.Shape(shape).TotalSize())
	return b.node(name, *data, shape)
}

// node adds a node that holds data itself. The tensor is the node's own: a
// machine writes to it, though not to the data.
func (b *builder) node(name string, data []float32, shape tensor.Shape) *gorgonia.Node {
	value := tensor.New(tensor.WithShape(shape...), tensor.WithBacking(data))
	return gorgonia.NewTensor(b.graph, tensor.Float32, len(shape), gorgonia.WithName(name), gorgonia.WithShape(shape...), gorgonia.WithValue(value))
}

func (b *builder) weights(data [][]float32) gorgonia.Nodes {
	var out gorgonia.Nodes
	for i, p := range parameters() {
		out = append(out, b.node(p.name, data[i], p.shape))
	}
	return out
}

func (b *builder) add(l layer, inputs ...*gorgonia.Node) *gorgonia.Node {
	if b.err != nil {
		return nil
	}
	var n *gorgonia.Node
	n, b.err = apply(l, b.training, inputs...)
	return n
}

func (b *builder) product(x, y *gorgonia.Node) *gorgonia.Node {
	if b.err != nil {
		return nil
	}
	var n *gorgonia.Node
	n, b.err = gorgonia.HadamardProd(x, y)
	return n
}

// hidden is the convolution over the channels and the LSTM over time: batch x
// hidden.
func (b *builder) hidden(batch int, x *gorgonia.Node, w gorgonia.Nodes) *gorgonia.Node {
	conv1 := newAffine(affine{
		name: "conv1", batch: batch, steps: steps, in: channels, kernel: kernel1, stride: 1, pad: 1, out: filters1, rectify: true,
	}, b.training)
	conv2 := newAffine(affine{
		name: "conv2", batch: batch, steps: steps, in: filters1, kernel: kernel2, stride: stride2, pad: 1, out: filters2, rectify: true,
	}, b.training)
	memory := newLSTM(lstm{name: "lstm", batch: batch, steps: halved, in: filters2, hidden: hidden}, b.training)
	n := b.add(conv1, x, w[0], w[1])
	n = b.add(conv2, n, w[2], w[3])
	return b.add(memory, n, w[4], w[5], w[6])
}

// head joins the hidden state with the context and gives the quantiles: batch x
// (horizon*levels).
func (b *builder) head(batch int, state, context *gorgonia.Node, w gorgonia.Nodes) *gorgonia.Node {
	if b.err != nil {
		return nil
	}
	var n *gorgonia.Node
	n, b.err = gorgonia.Concat(1, state, context)
	first := newAffine(affine{name: "head1", batch: batch, steps: 1, in: hidden + contextLen, kernel: 1, stride: 1, out: wide, rectify: true, dense: true}, b.training)
	second := newAffine(affine{name: "head2", batch: batch, steps: 1, in: wide, kernel: 1, stride: 1, out: outputs(), dense: true}, b.training)
	n = b.add(first, n, w[7], w[8])
	n = b.add(second, n, w[9], w[10])
	return b.add(&quantiles{batch: batch, horizon: horizon, levels: len(forecaster.Levels()), median: median}, n)
}

// differentiate adds the gradients of the loss. It starts from a constant of its
// own: that of gorgonia.Grad is one node shared by all graphs of the process.
func (b *builder) differentiate(loss *gorgonia.Node, params gorgonia.Nodes) gorgonia.Nodes {
	if b.err != nil {
		return nil
	}
	one := b.graph.AddNode(gorgonia.NewConstant(float32(1)))
	var grads gorgonia.Nodes
	grads, b.err = gorgonia.Backpropagate(gorgonia.Nodes{loss}, gorgonia.Nodes{one}, params)
	return grads
}
