package cnnlstm

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// matrix views data as rows x cols numbers, with rows stride apart.
func matrix(data []float32, rows, cols, stride int) blas32.General {
	return blas32.General{Rows: rows, Cols: cols, Stride: stride, Data: data}
}

// multiply writes a*b + beta*c to c. A row of c depends on the same row of a
// alone and is summed in the same order whatever the number of rows, so that a
// forecast does not depend on the windows beside it. That is why b is never
// transposed here: gonum would then take dot products, whose order of summation
// follows the alignment in memory.
func multiply(a, b blas32.General, beta float32, c blas32.General) {
	blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, a, b, beta, c)
}

// multiplyTransposed writes transpose(a)*b to c.
func multiplyTransposed(a, b, c blas32.General) {
	blas32.Gemm(blas.Trans, blas.NoTrans, 1, a, b, 0, c)
}

// transpose writes the transpose of the rows x cols matrix a to out.
func transpose(a []float32, rows, cols int, out []float32) {
	for i := range rows {
		for j, v := range a[i*cols : (i+1)*cols] {
			out[j*rows+i] = v
		}
	}
}

// addRows writes the sum of the rows of a, which are len(out) long, to out.
func addRows(a, out []float32) {
	clear(out)
	for ; len(a) > 0; a = a[len(out):] {
		for j, v := range a[:len(out)] {
			out[j] += v
		}
	}
}

// Coefficients of exp32 after Cephes' expf: log 2 in two parts, so that the
// reduction is exact, and a polynomial that is good to 24 bits within
// +-log(2)/2.
const (
	log2High = 0.693359375
	log2Low  = -2.12194440e-4
	exp5     = 1.9875691500e-4
	exp4     = 1.3981999507e-3
	exp3     = 8.3334519073e-3
	exp2     = 4.1665795894e-2
	exp1     = 1.6666665459e-1
	exp0     = 5.0000001201e-1
	// maxExp keeps the result finite and normal.
	maxExp = 87
)

// exp32 is e to the power of x for |x| <= maxExp, and that of the bound beyond.
// It is three times as fast as math.Exp, which takes a third of a forward pass.
// Products are rounded before they are added, so that processors with and
// without fused instructions agree.
func exp32(x float32) float32 {
	x = max(-maxExp, min(maxExp, x))
	n := float32(int32(x*math.Log2E + 0.5*sign(x)))
	r := x - float32(n*log2High)
	r -= float32(n * log2Low)
	p := float32(float32(exp5*r)+exp4) * r
	p = float32(p+exp3) * r
	p = float32(p+exp2) * r
	p = float32(p+exp1) * r
	p = float32(p+exp0) * float32(r*r)
	p = p + r + 1
	return p * math.Float32frombits(uint32(int32(n)+127)<<23)
}

func sign(x float32) float32 {
	return math.Float32frombits(math.Float32bits(x)&(1<<31) | math.Float32bits(1))
}

func sigmoid(x float32) float32 { return 1 / (1 + exp32(-x)) }

func tanh(x float32) float32 { return 1 - 2/(1+exp32(2*x)) }

// softplus is log(1+exp(x)): positive, and x itself where x is large.
func softplus(x float32) float32 {
	return max(x, 0) + float32(math.Log1p(math.Exp(-math.Abs(float64(x)))))
}
