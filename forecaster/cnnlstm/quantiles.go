package cnnlstm

import (
	"fmt"

	"gorgonia.org/tensor"
)

// quantiles turns the numbers of the head into quantiles that cannot cross: the
// median as it is, and gaps to the neighbouring levels that are positive by
// construction.
//
//	x: batch x (horizon*levels)    result: batch x (horizon*levels), by step, then by level
//
//	q_median = x_median    q_k = q_{k-1} + softplus(x_k) above, q_k = q_{k+1} - softplus(x_k) below
type quantiles struct {
	batch, horizon, levels, median int
}

func (q *quantiles) String() string        { return "quantiles" }
func (q *quantiles) takes() []tensor.Shape { return []tensor.Shape{q.gives()} }
func (q *quantiles) gives() tensor.Shape   { return tensor.Shape{q.batch, q.horizon * q.levels} }
func (q *quantiles) learns() []bool        { return []bool{true} }

func (q *quantiles) forward(in [][]float32, out []float32) {
	for at := 0; at < len(out); at += q.levels {
		x, y := in[0][at:at+q.levels], out[at:at+q.levels]
		y[q.median] = x[q.median]
		for k := q.median + 1; k < q.levels; k++ {
			y[k] = y[k-1] + softplus(x[k])
		}
		for k := q.median - 1; k >= 0; k-- {
			y[k] = y[k+1] - softplus(x[k])
		}
	}
}

func (q *quantiles) backward(in [][]float32, grad []float32, grads [][]float32) {
	for at := 0; at < len(grad); at += q.levels {
		x, dy, dx := in[0][at:at+q.levels], grad[at:at+q.levels], grads[0][at:at+q.levels]
		above, below := float32(0), float32(0) // Every gap moves all quantiles beyond it.
		for k := q.levels - 1; k > q.median; k-- {
			above += dy[k]
			dx[k] = above * sigmoid(x[k])
		}
		for k := range q.median {
			below += dy[k]
			dx[k] = -below * sigmoid(x[k])
		}
		dx[q.median] = above + below + dy[q.median]
	}
}

// pinball is the mean loss of quantiles over all levels and the targets there
// are:
//
//	max(p*(y-q), (p-1)*(y-q))
//
// of quantile q at level p when y happened. See Koenker and Bassett, "Regression
// Quantiles", 1978.
//
//	q: batch x (horizon*levels)    y: batch x horizon    there: batch x horizon, 1 or 0
type pinball struct {
	batch, horizon int
	levels         []float32
}

func (p *pinball) String() string { return "pinball loss" }

func (p *pinball) takes() []tensor.Shape {
	return []tensor.Shape{{p.batch, p.horizon * len(p.levels)}, {p.batch, p.horizon}, {p.batch, p.horizon}}
}

func (p *pinball) gives() tensor.Shape { return tensor.ScalarShape() }
func (p *pinball) learns() []bool      { return []bool{true, false, false} }

func (p *pinball) forward(in [][]float32, out []float32) {
	sum, n := 0.0, 0.0
	for i, y := range in[1] {
		if in[2][i] == 0 {
			continue
		}
		n++
		for k, level := range p.levels {
			e := y - in[0][i*len(p.levels)+k]
			sum += float64(max(level*e, (level-1)*e))
		}
	}
	out[0] = float32(sum / max(1, n*float64(len(p.levels))))
}

func (p *pinball) backward(in [][]float32, grad []float32, grads [][]float32) {
	n := float32(0)
	for _, v := range in[2] {
		n += v
	}
	scale := grad[0] / max(1, n*float32(len(p.levels)))
	for i, y := range in[1] {
		for k, level := range p.levels {
			at, slope := i*len(p.levels)+k, -level
			if y < in[0][at] {
				slope = 1 - level
			}
			grads[0][at] = slope * scale * in[2][i]
		}
	}
}

var _ = []fmt.Stringer{(*quantiles)(nil), (*pinball)(nil)}
