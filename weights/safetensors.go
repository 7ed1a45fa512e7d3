// Package weights holds the weights that ship with kubeforecaster and the codec
// of the format that they are in.
//
// The format is [safetensors]: an 8-byte little-endian length, a JSON header that
// names every tensor with its shape, type and place, and the numbers themselves.
// Only 32-bit floats are read and written.
//
// [safetensors]: https://github.com/huggingface/safetensors
package weights

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// Bounds of a file. They are far above what a forecaster needs and keep a
// corrupt or hostile file from taking all memory.
const (
	MaxHeader = 1 << 20  // bytes of JSON
	MaxFile   = 64 << 20 // bytes in all
	maxDims   = 8
)

const (
	lengthSize  = 8
	floatSize   = 4
	floatType   = "F32"
	metadataKey = "__metadata__"
)

// File is the content of one safetensors file.
type File struct {
	Metadata map[string]string
	Tensors  map[string]Tensor
}

// Tensor is an array of 32-bit floats, row by row. len(Data) is the product of
// Shape.
type Tensor struct {
	Shape []int
	Data  []float32
}

// Tensor returns the named tensor, or an error when the file holds none of that
// name and shape.
func (f *File) Tensor(name string, shape ...int) (Tensor, error) {
	t, ok := f.Tensors[name]
	if !ok {
		have := slices.Sorted(maps.Keys(f.Tensors))
		return Tensor{}, fmt.Errorf("tensor %q is missing; the file holds %s", name, strings.Join(have, ", "))
	}
	if !slices.Equal(t.Shape, shape) {
		return Tensor{}, fmt.Errorf("tensor %q has shape %v; want %v", name, t.Shape, shape)
	}
	return t, nil
}

// entry is how the header describes one tensor. Offsets count from the end of
// the header.
type entry struct {
	Type    string `json:"dtype"`
	Shape   []int  `json:"shape"`
	Offsets []int  `json:"data_offsets"`
}

// Encode returns the file in the safetensors format. Equal files give equal
// bytes: tensors are ordered by name and the header is padded to 8 bytes.
func (f *File) Encode() ([]byte, error) {
	header := make(map[string]any, len(f.Tensors)+1)
	if len(f.Metadata) > 0 {
		header[metadataKey] = f.Metadata
	}
	names, size := slices.Sorted(maps.Keys(f.Tensors)), 0
	for _, name := range names {
		t := f.Tensors[name]
		if name == metadataKey {
			return nil, fmt.Errorf("encode tensor %q: the name is reserved", name)
		}
		if err := t.check(); err != nil {
			return nil, fmt.Errorf("encode tensor %q: %w", name, err)
		}
		header[name] = entry{Type: floatType, Shape: shapeOf(t), Offsets: []int{size, size + floatSize*len(t.Data)}}
		size += floatSize * len(t.Data)
	}
	text, err := json.Marshal(header) // Orders the keys of maps.
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	text = append(text, bytes.Repeat([]byte(" "), (lengthSize-len(text)%lengthSize)%lengthSize)...)
	if len(text) > MaxHeader || lengthSize+len(text)+size > MaxFile {
		return nil, fmt.Errorf("%d bytes of header and %d of tensors are too many; at most %d and %d in all", len(text), size, MaxHeader, MaxFile)
	}
	out := binary.LittleEndian.AppendUint64(make([]byte, 0, lengthSize+len(text)+size), uint64(len(text)))
	out = append(out, text...)
	for _, name := range names {
		for _, v := range f.Tensors[name].Data {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
	}
	return out, nil
}

// shapeOf gives a scalar an empty list for a shape, as JSON wants it.
func shapeOf(t Tensor) []int { return append([]int{}, t.Shape...) }

func (t Tensor) check() error {
	n, err := elements(t.Shape)
	if err != nil {
		return err
	}
	if n != len(t.Data) {
		return fmt.Errorf("shape %v has %d elements, the data has %d", t.Shape, n, len(t.Data))
	}
	return t.finite()
}

func (t Tensor) finite() error {
	for i, v := range t.Data {
		if v != v || v > math.MaxFloat32 || v < -math.MaxFloat32 {
			return fmt.Errorf("element %d is %v; weights are finite", i, v)
		}
	}
	return nil
}

// elements is the product of the dimensions, which is bounded so that it cannot
// overflow.
func elements(shape []int) (int, error) {
	if len(shape) > maxDims {
		return 0, fmt.Errorf("shape %v has %d dimensions; at most %d", shape, len(shape), maxDims)
	}
	n := 1
	for _, d := range shape {
		if d < 0 || d > MaxFile {
			return 0, fmt.Errorf("shape %v has a dimension out of range", shape)
		}
		n *= d
		if n > MaxFile/floatSize {
			return 0, fmt.Errorf("shape %v is too large", shape)
		}
	}
	return n, nil
}

// Read decodes a file from r, which it reads to the end.
func Read(r io.Reader) (*File, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read weights: %w", err)
	}
	return Decode(data)
}

// Decode reads a file in the safetensors format. Every fault is an error: a
// header that is cut off or no JSON, a type other than F32, tensors that overlap,
// leave gaps or do not fill the file, and numbers that are not finite.
func Decode(data []byte) (*File, error) {
	text, body, err := split(data)
	if err != nil {
		return nil, err
	}
	f, entries, err := parse(text)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(entries))
	for _, name := range names {
		t, err := entries[name].tensor(body)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		f.Tensors[name] = t
	}
	return f, covered(names, entries, len(body))
}

func split(data []byte) (header, body []byte, err error) {
	if len(data) > MaxFile {
		return nil, nil, fmt.Errorf("the file is larger than %d bytes, the most that is read", MaxFile)
	}
	if len(data) < lengthSize {
		return nil, nil, fmt.Errorf("the file ends after %d bytes, within the length of its header", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	rest := data[lengthSize:]
	if n > MaxHeader {
		return nil, nil, fmt.Errorf("a header of %d bytes is longer than %d; this is no safetensors file", n, MaxHeader)
	}
	if n > uint64(len(rest)) {
		return nil, nil, fmt.Errorf("the file ends within its header of %d bytes", n)
	}
	return rest[:n], rest[n:], nil
}

func parse(text []byte) (*File, map[string]entry, error) {
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, nil, fmt.Errorf("the header is no JSON object: %w", err)
	}
	f := &File{Metadata: map[string]string{}, Tensors: map[string]Tensor{}}
	if m, ok := raw[metadataKey]; ok {
		if err := json.Unmarshal(m, &f.Metadata); err != nil {
			return nil, nil, fmt.Errorf("the metadata is no map of strings: %w", err)
		}
		delete(raw, metadataKey)
	}
	entries := make(map[string]entry, len(raw))
	for name, m := range raw {
		var e entry
		if err := json.Unmarshal(m, &e); err != nil {
			return nil, nil, fmt.Errorf("tensor %q: the header's entry is malformed: %w", name, err)
		}
		entries[name] = e
	}
	return f, entries, nil
}

func (e entry) tensor(body []byte) (Tensor, error) {
	if e.Type != floatType {
		return Tensor{}, fmt.Errorf("type %q is not supported; want %s", e.Type, floatType)
	}
	n, err := elements(e.Shape)
	if err != nil {
		return Tensor{}, err
	}
	if len(e.Offsets) != 2 || e.Offsets[0] < 0 || e.Offsets[1] < e.Offsets[0] || e.Offsets[1] > len(body) {
		return Tensor{}, fmt.Errorf("offsets %v lie outside the %d bytes of data", e.Offsets, len(body))
	}
	bytes := body[e.Offsets[0]:e.Offsets[1]]
	if len(bytes) != n*floatSize {
		return Tensor{}, fmt.Errorf("shape %v needs %d bytes, offsets %v give %d", e.Shape, n*floatSize, e.Offsets, len(bytes))
	}
	t := Tensor{Shape: e.Shape, Data: make([]float32, n)}
	for i := range t.Data {
		t.Data[i] = math.Float32frombits(binary.LittleEndian.Uint32(bytes[i*floatSize:]))
	}
	return t, t.finite()
}

// covered checks that the tensors cover the data without gap or overlap, as the
// format demands, so that no byte is read twice or hidden.
func covered(names []string, entries map[string]entry, size int) error {
	slices.SortFunc(names, func(a, b string) int { return slices.Compare(entries[a].Offsets, entries[b].Offsets) })
	end := 0
	for _, name := range names {
		if at := entries[name].Offsets[0]; at != end {
			return fmt.Errorf("tensor %q starts at byte %d of the data; want %d, tensors neither overlap nor leave gaps", name, at, end)
		}
		end = entries[name].Offsets[1]
	}
	if end != size {
		return fmt.Errorf("%d bytes follow the last tensor", size-end)
	}
	return nil
}
