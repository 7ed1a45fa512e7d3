package cnnlstm

import (
	"fmt"

	"gorgonia.org/tensor"
)

// affine is a convolution over time, x*W + b with an optional rectifier. A
// dense layer is the case of one step and a kernel of one.
//
//	x: batch x steps x in    W: (kernel*in) x out    b: out
//	result: batch x steps' x out, with steps' = (steps + 2*pad - kernel)/stride + 1
//
// Every place of the kernel is laid out as a row, so that one matrix product
// does the work.
type affine struct {
	name                 string
	batch, steps, in     int
	kernel, stride, pad  int
	out                  int
	rectify              bool
	dense                bool // x is batch x in
	patches, moved, swap []float32
	active               []float32 // the result of the last forward
}

func newAffine(a affine, training bool) *affine {
	rows, width := a.batch*a.places(), a.kernel*a.in
	if !a.dense {
		a.patches = make([]float32, rows*width)
	}
	if training {
		a.moved = make([]float32, rows*a.out)
		a.swap = make([]float32, width*a.out)
		if !a.dense {
			a.patches = make([]float32, rows*width)
		}
	}
	return &a
}

func (a *affine) String() string { return a.name }

// places is the number of steps of the result.
func (a *affine) places() int { return (a.steps+2*a.pad-a.kernel)/a.stride + 1 }

func (a *affine) takes() []tensor.Shape {
	x := tensor.Shape{a.batch, a.steps, a.in}
	if a.dense {
		x = tensor.Shape{a.batch, a.in}
	}
	return []tensor.Shape{x, {a.kernel * a.in, a.out}, {a.out}}
}

func (a *affine) gives() tensor.Shape {
	if a.dense {
		return tensor.Shape{a.batch, a.out}
	}
	return tensor.Shape{a.batch, a.places(), a.out}
}

func (a *affine) learns() []bool { return []bool{true, true, true} }

func (a *affine) forward(in [][]float32, out []float32) {
	rows, width := a.batch*a.places(), a.kernel*a.in
	for row := range rows {
		copy(out[row*a.out:], in[2])
	}
	multiply(matrix(a.rows(in[0]), rows, width, width), matrix(in[1], width, a.out, a.out), 1, matrix(out, rows, a.out, a.out))
	if a.rectify {
		for i, v := range out {
			out[i] = max(v, 0)
		}
	}
	a.active = out
}

// rows lays every place of the kernel out as a row of kernel*in numbers.
func (a *affine) rows(x []float32) []float32 {
	if a.dense {
		return x
	}
	width := a.kernel * a.in
	clear(a.patches)
	for n := range a.batch {
		for p := range a.places() {
			from, to := a.span(p)
			row := a.patches[(n*a.places()+p)*width:][:width]
			copy(row[(from-p*a.stride+a.pad)*a.in:], x[(n*a.steps+from)*a.in:(n*a.steps+to)*a.in])
		}
	}
	return a.patches
}

// span is the stretch of steps that the kernel covers at place p, without the
// padding.
func (a *affine) span(p int) (from, to int) {
	first := p*a.stride - a.pad
	return max(first, 0), min(first+a.kernel, a.steps)
}

func (a *affine) backward(in [][]float32, grad []float32, grads [][]float32) {
	rows, width := a.batch*a.places(), a.kernel*a.in
	copy(a.moved, grad)
	if a.rectify {
		for i, v := range a.active {
			if v <= 0 {
				a.moved[i] = 0
			}
		}
	}
	dz := matrix(a.moved, rows, a.out, a.out)
	x := in[0]
	if !a.dense {
		x = a.patches // They still hold the rows of the last forward.
	}
	multiplyTransposed(matrix(x, rows, width, width), dz, matrix(grads[1], width, a.out, a.out))
	addRows(a.moved, grads[2])
	transpose(in[1], width, a.out, a.swap)
	a.scatter(dz.Data, grads[0])
}

// scatter writes the gradient of the input: the gradients of all rows, added
// where the kernel's places overlap.
func (a *affine) scatter(dz, dx []float32) {
	rows, width := a.batch*a.places(), a.kernel*a.in
	back, swapped := matrix(dz, rows, a.out, a.out), matrix(a.swap, a.out, width, width)
	if a.dense {
		multiply(back, swapped, 0, matrix(dx, rows, width, width))
		return
	}
	multiply(back, swapped, 0, matrix(a.patches, rows, width, width))
	clear(dx)
	for n := range a.batch {
		for p := range a.places() {
			from, to := a.span(p)
			row := a.patches[(n*a.places()+p)*width:][(from-p*a.stride+a.pad)*a.in:]
			for i := range dx[(n*a.steps+from)*a.in : (n*a.steps+to)*a.in] {
				dx[(n*a.steps+from)*a.in+i] += row[i]
			}
		}
	}
}

var _ fmt.Stringer = (*affine)(nil)
