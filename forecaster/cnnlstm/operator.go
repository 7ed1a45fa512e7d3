package cnnlstm

import (
	"fmt"
	"hash"
	"hash/fnv"
	"slices"

	"github.com/chewxy/hm"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// layer is a function of tensors together with its gradient, on plain slices
// whose sizes are fixed when it is made. It may keep what forward computed for
// backward, so it belongs to one graph and one goroutine.
type layer interface {
	fmt.Stringer // tells layers of one graph apart
	// takes and gives are the shapes of the inputs and of the result.
	takes() []tensor.Shape
	gives() tensor.Shape
	// learns says which inputs have a gradient.
	learns() []bool
	// forward writes the result to out.
	forward(in [][]float32, out []float32)
	// backward writes the gradient of every input that learns to grads, given
	// the gradient of the result. It follows the forward of the same inputs.
	backward(in [][]float32, grad []float32, grads [][]float32)
}

// operator makes a layer known to gorgonia. Its result and the gradients live
// in buffers that every run of the graph writes anew.
//
// A gorgonia operator has one result, a layer has a gradient for each input, and
// most of the work is common to them. So each gradient is an operator of its
// own, and the first that a run reaches computes all of them.
type operator struct {
	layer layer
	out   *tensor.Dense
	grads []*tensor.Dense // nil where the input does not learn
	fresh bool            // grads belong to the last forward
}

// gradient is the gradient of an operator with respect to one input. Its own
// inputs are those of the operator, then its result, then the result's gradient.
type gradient struct {
	of  *operator
	wrt int
}

// apply adds l to the graph of its inputs.
func apply(l layer, training bool, inputs ...*gorgonia.Node) (*gorgonia.Node, error) {
	op := &operator{layer: l, out: zeros(l.gives())}
	if training {
		op.grads = make([]*tensor.Dense, len(inputs))
		for i, s := range l.takes() {
			if l.learns()[i] {
				op.grads[i] = zeros(s)
			}
		}
	}
	n, err := gorgonia.ApplyOp(op, inputs...)
	if err != nil {
		return nil, fmt.Errorf("add %v to the graph: %w", l, err)
	}
	return n, nil
}

func zeros(s tensor.Shape) *tensor.Dense {
	if s.IsScalar() {
		return tensor.New(tensor.FromScalar(float32(0)))
	}
	return tensor.New(tensor.WithShape(s...), tensor.Of(tensor.Float32))
}

func (o *operator) Arity() int { return len(o.layer.takes()) }

func (o *operator) Type() hm.Type {
	return hm.NewFnType(append(typesOf(o.layer.takes()), typeOf(o.layer.gives()))...)
}

func typesOf(shapes []tensor.Shape) []hm.Type {
	ts := make([]hm.Type, len(shapes))
	for i, s := range shapes {
		ts[i] = typeOf(s)
	}
	return ts
}

func typeOf(s tensor.Shape) hm.Type {
	if s.IsScalar() {
		return tensor.Float32
	}
	return gorgonia.TensorType{Dims: len(s), Of: tensor.Float32}
}

func (o *operator) InferShape(in ...gorgonia.DimSizer) (tensor.Shape, error) {
	if err := match(o, in, o.layer.takes()); err != nil {
		return nil, err
	}
	return o.layer.gives().Clone(), nil
}

func match(op fmt.Stringer, in []gorgonia.DimSizer, want []tensor.Shape) error {
	got, err := gorgonia.DimSizersToShapes(in)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(got, want, func(a, b tensor.Shape) bool { return a.Eq(b) }) {
		return fmt.Errorf("%v got inputs of shapes %v; want %v", op, got, want)
	}
	return nil
}

func (o *operator) Do(values ...gorgonia.Value) (result gorgonia.Value, err error) {
	// The machine runs operators on a goroutine of its own, where nobody else
	// could recover.
	defer caught(o, &err)
	in, err := floats(values)
	if err != nil {
		return nil, err
	}
	o.fresh = false
	o.layer.forward(in, dataOf(o.out))
	return valueOf(o.out), nil
}

// caught turns a panic into an error.
func caught(of fmt.Stringer, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%v: %v", of, r)
	}
}

func floats(values []gorgonia.Value) ([][]float32, error) {
	in := make([][]float32, len(values))
	for i, v := range values {
		switch data := v.Data().(type) {
		case []float32:
			in[i] = data
		case float32:
			in[i] = []float32{data}
		default:
			return nil, fmt.Errorf("input %d holds %T; want 32-bit floats", i, data)
		}
	}
	return in, nil
}

// dataOf gives the numbers of t for writing, those of a scalar too.
func dataOf(t *tensor.Dense) []float32 { return t.Float32s() }

// valueOf is t as the machine passes it on: scalars are values of their own.
func valueOf(t *tensor.Dense) gorgonia.Value {
	if t.IsScalar() {
		return gorgonia.NewF32(t.Float32s()[0])
	}
	return t
}

func (o *operator) DiffWRT(int) []bool { return o.layer.learns() }

func (o *operator) SymDiff(inputs gorgonia.Nodes, output, grad *gorgonia.Node) (gorgonia.Nodes, error) {
	all := append(slices.Clone(inputs), output, grad)
	out := make(gorgonia.Nodes, len(inputs))
	for i, learns := range o.layer.learns() {
		if !learns {
			continue
		}
		n, err := gorgonia.ApplyOp(&gradient{of: o, wrt: i}, all...)
		if err != nil {
			return nil, fmt.Errorf("differentiate %v by input %d: %w", o, i, err)
		}
		out[i] = n
	}
	return out, nil
}

func (o *operator) ReturnsPtr() bool      { return true }
func (o *operator) CallsExtern() bool     { return false }
func (o *operator) OverwritesInput() int  { return -1 }
func (o *operator) WriteHash(h hash.Hash) { fmt.Fprint(h, o.String()) }
func (o *operator) Hashcode() uint32      { return hashcode(o.String()) }
func (o *operator) String() string        { return o.layer.String() }

func (g *gradient) Arity() int { return g.of.Arity() + 2 }

func (g *gradient) Type() hm.Type {
	result := typeOf(g.of.layer.gives())
	ts := append(typesOf(g.of.layer.takes()), result, result)
	return hm.NewFnType(append(ts, ts[g.wrt])...)
}

func (g *gradient) InferShape(...gorgonia.DimSizer) (tensor.Shape, error) {
	return g.of.layer.takes()[g.wrt].Clone(), nil
}

func (g *gradient) Do(values ...gorgonia.Value) (result gorgonia.Value, err error) {
	defer caught(g, &err)
	if !g.of.fresh {
		in, err := floats(values)
		if err != nil {
			return nil, err
		}
		g.of.differentiate(in)
	}
	return g.of.grads[g.wrt], nil
}

func (o *operator) differentiate(in [][]float32) {
	grads := make([][]float32, len(o.grads))
	for i, t := range o.grads {
		if t != nil {
			grads[i] = dataOf(t)
		}
	}
	n := o.Arity()
	o.layer.backward(in[:n], in[n+1], grads)
	o.fresh = true
}

func (g *gradient) ReturnsPtr() bool      { return true }
func (g *gradient) CallsExtern() bool     { return false }
func (g *gradient) OverwritesInput() int  { return -1 }
func (g *gradient) WriteHash(h hash.Hash) { fmt.Fprint(h, g.String()) }
func (g *gradient) Hashcode() uint32      { return hashcode(g.String()) }
func (g *gradient) String() string        { return fmt.Sprintf("gradient of %v by input %d", g.of, g.wrt) }

func hashcode(s string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(s))
	return h.Sum32()
}

var (
	_ gorgonia.SDOp = (*operator)(nil)
	_ gorgonia.Op   = (*gradient)(nil)
)
