// Package cnnlstm is the forecasting network: a convolution over the newest
// steps of a window, an LSTM over time, and a head that gives every quantile of
// every step in one pass. It is built, differentiated and run as a gorgonia
// graph, and is alone in importing gorgonia.
//
// gorgonia's graphs and machines hold state, so they never leave this package:
// a [Model] holds weights that do not change and lends each of its workers a
// machine of its own. Panics become errors before they reach a caller.
package cnnlstm

import (
	// gorgonia refuses to start on a Go release that the newest version of this
	// module does not know, and asks for one that is too old itself. The import
	// keeps the newer version required.
	_ "go4.org/unsafe/assume-no-moving-gc"
)
