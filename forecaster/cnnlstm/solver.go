package cnnlstm

import (
	"errors"
	"math"

	"gorgonia.org/gorgonia"
)

// adam is Adam with decoupled weight decay, as a gorgonia solver. See Kingma and
// Ba, "Adam", 2015, and Loshchilov and Hutter, "Decoupled Weight Decay
// Regularization", 2019.
//
// gorgonia's own AdamW decays a copy of the weights and never moves them, and the
// state of its Adam cannot be saved, so a run could not be resumed.
type adam struct {
	rate, decay float64
	taken       int         // steps so far
	mean, power [][]float32 // of the gradient and its square, by parameter
}

const (
	adamMean  = 0.9
	adamPower = 0.999
	adamTiny  = 1e-8
)

func newAdam(decay float64) *adam {
	a := &adam{decay: decay}
	for _, p := range parameters() {
		a.mean = append(a.mean, make([]float32, p.size()))
		a.power = append(a.power, make([]float32, p.size()))
	}
	return a
}

// Step implements [gorgonia.Solver] for the parameters of the network, in order.
func (a *adam) Step(params []gorgonia.ValueGrad) error {
	a.taken++
	bias1 := 1 - math.Pow(adamMean, float64(a.taken))
	bias2 := 1 - math.Pow(adamPower, float64(a.taken))
	rate := float32(a.rate / bias1)
	scale := float32(1 / math.Sqrt(bias2))
	for i, p := range params {
		g, err := p.Grad()
		if err != nil {
			return err
		}
		weight, grad := p.Value().Data().([]float32), g.Data().([]float32)
		if parameters()[i].fan > 0 {
			shrink(weight, float32(1-a.rate*a.decay))
		}
		mean, power := a.mean[i], a.power[i]
		for j, d := range grad {
			mean[j] += (1 - adamMean) * (d - mean[j])
			power[j] += (1 - adamPower) * (d*d - power[j])
			weight[j] -= rate * mean[j] / (float32(math.Sqrt(float64(power[j])))*scale + adamTiny)
		}
	}
	return nil
}

func shrink(xs []float32, factor float32) {
	for i := range xs {
		xs[i] *= factor
	}
}

// learnt is a parameter and its gradient as a solver takes them.
type learnt struct {
	weight, grad *gorgonia.Node
}

func (l learnt) Value() gorgonia.Value { return l.weight.Value() }

func (l learnt) Grad() (gorgonia.Value, error) {
	if v := l.grad.Value(); v != nil {
		return v, nil
	}
	return nil, errors.New("the graph has not run")
}

// clipNorm scales gradients down to a norm of at most limit over all of them and
// returns the norm that they had.
func clipNorm(params []gorgonia.ValueGrad, limit float64) (float64, error) {
	var squares float64
	var all [][]float32
	for _, p := range params {
		g, err := p.Grad()
		if err != nil {
			return 0, err
		}
		data := g.Data().([]float32)
		for _, v := range data {
			squares += float64(v) * float64(v)
		}
		all = append(all, data)
	}
	norm := math.Sqrt(squares)
	if norm > limit {
		for _, data := range all {
			shrink(data, float32(limit/norm))
		}
	}
	return norm, nil
}

// cycle is the learning rate at a share of the training: up to the peak in the
// first three tenths and down to nearly nothing after, both along a cosine. See
// Smith and Topin, "Super-Convergence", 2018.
func cycle(peak, share float64) float64 {
	const rise, start, end = 0.3, 1. / 25, 1e-4
	if share < rise {
		return peak * between(start, 1, share/rise)
	}
	return peak * between(1, end, (share-rise)/(1-rise))
}

// between goes from a to b along half a cosine while share goes from 0 to 1.
func between(a, b, share float64) float64 {
	return b + (a-b)*(1+math.Cos(math.Pi*min(share, 1)))/2
}
