package cnnlstm

import (
	"math"
	"time"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

const (
	steps    = 60 // newest steps that the convolution sees
	horizon  = forecaster.HorizonSteps
	minSteps = 3 // fewest observed samples of a window

	// Channels of every step.
	channels      = 5
	channelValue  = 0
	channelChange = 1
	channelSeen   = 2 // 1 where the sample is observed, else 0
	channelWith   = 3 // the companion
	channelHas    = 4 // 1 where the companion is observed

	// The past at about the target times: from before steps ahead of the origin
	// to the horizon, a day and a week ago.
	before     = 5
	pastWidth  = before + 1 + horizon
	pastLevel  = 1. / 3 // keeps the past within the range of the other inputs
	contextLen = 2*(pastWidth+1) + 4

	// clip bounds every input and every forecast, in units of the spread.
	clip = 20
)

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// scale turns what the network sees and says into the metric's own unit.
type scale struct {
	last, spread float64
}

// norm is v in units of the spread from the last value, within the clip.
func (s scale) norm(v float64) float32 {
	return float32(max(-clip, min(clip, (v-s.last)/s.spread)))
}

// unit is the value that the network's y stands for. It is finite for every y
// that is a number.
func (s scale) unit(y float32) float64 {
	v := s.last + s.spread*max(-clip, min(clip, float64(y)))
	return max(-math.MaxFloat64, min(math.MaxFloat64, v))
}

// scaleOf is the scale of filled values: the last of them, and their standard
// deviation plus a little of their level, so that a flat stretch has a spread
// too. It is worked out relative to the largest value, so that none overflows.
func scaleOf(values []float64) scale {
	largest := 0.0
	for _, v := range values {
		largest = max(largest, math.Abs(v))
	}
	last := values[len(values)-1]
	if largest < minSpread {
		return scale{last: last, spread: minSpread}
	}
	var sum, level float64
	for _, v := range values {
		sum += v / largest
		level += math.Abs(v / largest)
	}
	n, squares := float64(len(values)), 0.0
	for _, v := range values {
		squares += (v/largest - sum/n) * (v/largest - sum/n)
	}
	spread := math.Sqrt(squares/n) + 0.01*level/n + 1e-6
	return scale{last: last, spread: min(spread*largest, math.MaxFloat64)}
}

// minSpread is the spread of a series that is zero throughout: a billionth of a
// core or a byte.
const minSpread = 1e-9

// encode writes what the network sees of a window: x, steps x channels numbers,
// and context, contextLen numbers. It reads nothing later than the origin,
// because the window holds nothing later. The newest sample is observed.
func encode(w forecaster.Window, x, context []float32) scale {
	clear(x)
	clear(context)
	newest := w.Values[max(0, len(w.Values)-steps):]
	s := encodeChannel(newest, x, channelValue, channelSeen)
	encodeChanges(x)
	if w.With != nil {
		encodeChannel(w.With[len(w.With)-len(newest):], x, channelWith, channelHas)
	}
	encodePast(w, s, day, context[:pastWidth+1])
	encodePast(w, s, week, context[pastWidth+1:2*(pastWidth+1)])
	encodeSetting(w, s, context[2*(pastWidth+1):])
	return s
}

// encodeChannel writes values, normalised by their own scale, so that the newest
// lies in the last step. A missing sample repeats the one before it with a mask
// of 0; what lies before the first sample stays 0.
func encodeChannel(values []float64, x []float32, channel, mask int) scale {
	filled, first := fill(values)
	if first == len(values) {
		return scale{}
	}
	s := scaleOf(filled[first:])
	for i := first; i < len(values); i++ {
		at := (steps - len(values) + i) * channels
		x[at+channel] = s.norm(filled[i])
		if !math.IsNaN(values[i]) {
			x[at+mask] = 1
		}
	}
	return s
}

// fill repeats the last sample where one is missing. Nothing is known before
// first.
func fill(values []float64) (filled []float64, first int) {
	filled, first = make([]float64, len(values)), len(values)
	for i, v := range values {
		switch {
		case !math.IsNaN(v):
			filled[i], first = v, min(first, i)
		case i > first:
			filled[i] = filled[i-1]
		}
	}
	return filled, first
}

// encodeChanges writes the difference of every step to the one before.
func encodeChanges(x []float32) {
	known := false
	for at := 0; at < len(x); at += channels {
		if known {
			x[at+channelChange] = x[at+channelValue] - x[at-channels+channelValue]
		}
		known = known || x[at+channelSeen] != 0
	}
}

// encodePast writes the samples around the target times one lag ago and a flag.
// All are 0 when fewer than half of them are known, or when the step is so long
// that some of them would lie in the future.
func encodePast(w forecaster.Window, s scale, lag time.Duration, out []float32) {
	back := int((lag + w.Step/2) / w.Step)
	if back < horizon {
		return
	}
	var past [pastWidth]float64
	known := 0
	for i := range past {
		past[i] = w.Past(i - before - back)
		if !math.IsNaN(past[i]) {
			known++
		}
	}
	if known < pastWidth/2 {
		return
	}
	filled, first := fill(past[:])
	for i := range filled {
		out[i] = s.norm(filled[max(i, first)]) * pastLevel
	}
	out[pastWidth] = 1
}

// encodeSetting writes the time of day, how much the series moves for its level,
// and the step.
func encodeSetting(w forecaster.Window, s scale, out []float32) {
	seconds := w.Origin.Unix() % int64(day/time.Second)
	turn := 2 * math.Pi * float64(seconds) / day.Seconds()
	ratio := 1 / (1 + math.Abs(s.last)/s.spread) // spread/(|last|+spread), without overflow
	out[0], out[1] = float32(math.Sin(turn)), float32(math.Cos(turn))
	out[2] = float32(math.Log(max(ratio, 1e-9)))
	out[3] = float32(math.Log(w.Step.Seconds()) - 5)
}
