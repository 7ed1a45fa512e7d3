package cnnlstm

import "gorgonia.org/tensor"

// lstm is a layer of long short-term memory as one operator, which gives the
// hidden state after the last step. Unrolled into gorgonia's own operators it
// would be thousands of nodes.
//
//	x: batch x steps x in    W: in x 4*hidden    U: hidden x 4*hidden    b: 4*hidden
//
//	i, f, g, o = x_t*W + h_{t-1}*U + b, in four blocks of columns
//	c_t = sigmoid(f)*c_{t-1} + sigmoid(i)*tanh(g)
//	h_t = sigmoid(o)*tanh(c_t)
//
// States start at zero. See Hochreiter and Schmidhuber, "Long Short-Term
// Memory", 1997; the forget gate is that of Gers et al., 1999.
type lstm struct {
	name            string
	batch, steps    int
	in, hidden      int
	gates           []float32   // batch x steps x 4*hidden: activated gates
	cells, squashed [][]float32 // by step: batch x hidden; c_t and tanh(c_t)
	states          [][]float32 // by step: batch x hidden; h_t
	dGates          []float32   // batch x steps x 4*hidden: gradient before activation
	dState, dCell   []float32   // batch x hidden
	past            []float32   // batch x steps x hidden: h_{t-1}
	swapW, swapU    []float32
	zero            []float32
}

func newLSTM(l lstm, training bool) *lstm {
	l.gates = make([]float32, l.batch*l.steps*4*l.hidden)
	l.zero = make([]float32, l.batch*l.hidden)
	kept := 1
	if training {
		kept = l.steps
		l.dGates = make([]float32, len(l.gates))
		l.dState, l.dCell = make([]float32, l.batch*l.hidden), make([]float32, l.batch*l.hidden)
		l.past = make([]float32, l.batch*l.steps*l.hidden)
		l.swapW, l.swapU = make([]float32, 4*l.hidden*l.in), make([]float32, 4*l.hidden*l.hidden)
	}
	for range kept {
		l.cells = append(l.cells, make([]float32, l.batch*l.hidden))
		l.squashed = append(l.squashed, make([]float32, l.batch*l.hidden))
		l.states = append(l.states, make([]float32, l.batch*l.hidden))
	}
	return &l
}

func (l *lstm) String() string { return l.name }

func (l *lstm) takes() []tensor.Shape {
	return []tensor.Shape{{l.batch, l.steps, l.in}, {l.in, 4 * l.hidden}, {l.hidden, 4 * l.hidden}, {4 * l.hidden}}
}

func (l *lstm) gives() tensor.Shape { return tensor.Shape{l.batch, l.hidden} }

func (l *lstm) learns() []bool { return []bool{true, true, true, true} }

// at is the place of step t in what is kept by step: without training only the
// newest is.
func (l *lstm) at(t int) int { return t % len(l.states) }

func (l *lstm) forward(in [][]float32, out []float32) {
	rows, width := l.batch*l.steps, 4*l.hidden
	for row := range rows {
		copy(l.gates[row*width:], in[3])
	}
	multiply(matrix(in[0], rows, l.in, l.in), matrix(in[1], l.in, width, width), 1, matrix(l.gates, rows, width, width))
	u := matrix(in[2], l.hidden, width, width)
	for t := range l.steps {
		cell := l.zero
		if t > 0 {
			cell = l.cells[l.at(t-1)]
			multiply(matrix(l.states[l.at(t-1)], l.batch, l.hidden, l.hidden), u, 1, matrix(l.gates[t*width:], l.batch, width, l.steps*width))
		}
		l.step(t, cell)
	}
	copy(out, l.states[l.at(l.steps-1)])
}

// step activates the gates of step t in place and moves on from the cell before.
func (l *lstm) step(t int, before []float32) {
	n, k := l.hidden, l.at(t)
	for row := range l.batch {
		z := l.gates[(row*l.steps+t)*4*n:][:4*n]
		i, f, g, o := z[:n], z[n:2*n], z[2*n:3*n], z[3*n:]
		was, now := before[row*n:][:n], l.cells[k][row*n:][:n]
		flat, state := l.squashed[k][row*n:][:n], l.states[k][row*n:][:n]
		for j := range now {
			i[j], f[j], g[j], o[j] = sigmoid(i[j]), sigmoid(f[j]), tanh(g[j]), sigmoid(o[j])
			now[j] = float32(f[j]*was[j]) + float32(i[j]*g[j])
			flat[j] = tanh(now[j])
			state[j] = o[j] * flat[j]
		}
	}
}

func (l *lstm) backward(in [][]float32, grad []float32, grads [][]float32) {
	rows, width := l.batch*l.steps, 4*l.hidden
	transpose(in[1], l.in, width, l.swapW)
	transpose(in[2], l.hidden, width, l.swapU)
	copy(l.dState, grad)
	clear(l.dCell)
	u := matrix(l.swapU, width, l.hidden, l.hidden)
	for t := l.steps - 1; t >= 0; t-- {
		l.stepBack(t)
		if t > 0 {
			multiply(matrix(l.dGates[t*width:], l.batch, width, l.steps*width), u, 0, matrix(l.dState, l.batch, l.hidden, l.hidden))
		}
	}
	dz := matrix(l.dGates, rows, width, width)
	multiply(dz, matrix(l.swapW, width, l.in, l.in), 0, matrix(grads[0], rows, l.in, l.in))
	multiplyTransposed(matrix(in[0], rows, l.in, l.in), dz, matrix(grads[1], l.in, width, width))
	multiplyTransposed(matrix(l.before(), rows, l.hidden, l.hidden), dz, matrix(grads[2], l.hidden, width, width))
	addRows(l.dGates, grads[3])
}

// stepBack turns the gradients of h_t and c_t into those of the gates before
// activation, and leaves the gradient of c_{t-1} in dCell.
func (l *lstm) stepBack(t int) {
	n, before := l.hidden, l.zero
	if t > 0 {
		before = l.cells[t-1]
	}
	for row := range l.batch {
		z, dz := l.gates[(row*l.steps+t)*4*n:][:4*n], l.dGates[(row*l.steps+t)*4*n:][:4*n]
		i, f, g, o := z[:n], z[n:2*n], z[2*n:3*n], z[3*n:]
		di, df, dg, do := dz[:n], dz[n:2*n], dz[2*n:3*n], dz[3*n:]
		was, flat := before[row*n:][:n], l.squashed[t][row*n:][:n]
		dState, dCell := l.dState[row*n:][:n], l.dCell[row*n:][:n]
		for j := range dState {
			dc := dCell[j] + dState[j]*o[j]*(1-flat[j]*flat[j])
			do[j] = dState[j] * flat[j] * o[j] * (1 - o[j])
			di[j] = dc * g[j] * i[j] * (1 - i[j])
			df[j] = dc * was[j] * f[j] * (1 - f[j])
			dg[j] = dc * i[j] * (1 - g[j]*g[j])
			dCell[j] = dc * f[j]
		}
	}
}

// before lays out h_{t-1} in the order of the gates.
func (l *lstm) before() []float32 {
	n := l.hidden
	for t := 1; t < l.steps; t++ {
		for row := range l.batch {
			copy(l.past[(row*l.steps+t)*n:][:n], l.states[t-1][row*n:][:n])
		}
	}
	return l.past
}
