package forecaster

import (
	"context"
	"fmt"
)

// HorizonSteps is how many steps every model forecasts.
const HorizonSteps = 12

// Levels returns the quantile levels that every model forecasts, rising.
func Levels() []float64 { return []float64{0.1, 0.5, 0.9, 0.95, 0.99} }

// Shape is what a model takes and gives.
type Shape struct {
	MinSteps int       // fewest observed samples a window may hold
	Steps    int       // how many of the newest steps the model reads at most
	Horizon  int       // number of steps forecast
	Levels   []float64 // quantile levels forecast, rising
}

// Model forecasts windows. It is immutable, safe for concurrent use, and gives
// equal windows equal forecasts.
type Model interface {
	// Version names the model and its weights, such as "cnnlstm-3f9a1c".
	Version() string
	// Shape is what the windows given to Predict must have, and what comes back.
	Shape() Shape
	// Predict returns one forecast per window, in order. It fails as a whole:
	// with ErrShortHistory when a window holds fewer samples than Shape asks.
	Predict(ctx context.Context, ws []Window) ([]Forecast, error)
}

// CheckWindows returns an error that wraps ErrShortHistory when a window has
// fewer observed samples than the shape asks for.
func (s Shape) CheckWindows(ws []Window) error {
	for _, w := range ws {
		if w.Observed < s.MinSteps {
			return fmt.Errorf("series %v has %d samples, the model needs %d: %w", w.Labels, w.Observed, s.MinSteps, ErrShortHistory)
		}
	}
	return nil
}
