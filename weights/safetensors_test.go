package weights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample() *File {
	return &File{
		Metadata: map[string]string{"seed": "1"},
		Tensors: map[string]Tensor{
			"b": {Shape: []int{2}, Data: []float32{0.5, -2}},
			"a": {Shape: []int{1, 3}, Data: []float32{1, 2, 3}},
		},
	}
}

// raw puts a header and data together as the format says.
func raw(header string, data ...float32) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	out = append(out, header...)
	for _, v := range data {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

func TestEncodeWritesTheFormat(t *testing.T) {
	got, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	header := `{"__metadata__":{"seed":"1"},"a":{"dtype":"F32","shape":[1,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}}`
	header += strings.Repeat(" ", (8-len(header)%8)%8)
	if diff := cmp.Diff(raw(header, 1, 2, 3, 0.5, -2), got); diff != "" {
		t.Errorf("encoded file differs (-want +got):\n%s", diff)
	}
}

func TestDecodeReadsBackWhatEncodeWrote(t *testing.T) {
	data, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Errorf("decoded file differs (-want +got):\n%s", diff)
	}
}

func TestDecodeNamesTheFault(t *testing.T) {
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"an empty file":                 {nil, "ends after 0 bytes"},
		"text is no weights":            {[]byte("PK\x03\x04 some archive, no weights"), "this is no safetensors file"},
		"a file cut within its header":  {raw(`{"a":`)[:10], "ends within its header of 5 bytes"},
		"a header that is no JSON":      {raw(`{"a":`), "no JSON object"},
		"metadata that is no map":       {raw(`{"__metadata__":{"a":1}}`), "no map of strings"},
		"an entry that is no object":    {raw(`{"a":1}`), `tensor "a": the header's entry is malformed`},
		"another number type":           {raw(`{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 0), `type "F16" is not supported; want F32`},
		"a negative dimension":          {raw(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}`, 0), "dimension out of range"},
		"a shape that overflows":        {raw(`{"a":{"dtype":"F32","shape":[60000000,60000000,60000000],"data_offsets":[0,4]}}`, 0), "too large"},
		"too many dimensions":           {raw(`{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}`, 0), "9 dimensions; at most 8"},
		"offsets past the end":          {raw(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 0), "offsets [0 8] lie outside the 4 bytes"},
		"offsets that run backwards":    {raw(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}`, 0), "offsets [4 0] lie outside"},
		"one offset":                    {raw(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}`, 0), "offsets [0] lie outside"},
		"a shape unlike the size":       {raw(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}`, 0, 0), "needs 4 bytes, offsets [0 8] give 8"},
		"tensors that overlap":          {raw(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 0, 0), `tensor "b" starts at byte 4 of the data; want 8`},
		"tensors that leave a gap":      {raw(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 0, 0), `tensor "a" starts at byte 4 of the data; want 0`},
		"bytes after the last tensor":   {raw(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 0, 0), "4 bytes follow the last tensor"},
		"a weight that is not a number": {raw(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, float32(math.NaN())), "element 0 is NaN"},
		"an infinite weight":            {raw(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, float32(math.Inf(1))), "element 0 is +Inf"},
		"a file beyond the limit":       {make([]byte, MaxFile+1), "larger than 67108864 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode(tc.data)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v; want one that says %q", err, tc.want)
			}
		})
	}
}

func TestEncodeRefusesWhatDecodeWould(t *testing.T) {
	for name, tc := range map[string]struct {
		file File
		want string
	}{
		"a shape unlike the data": {File{Tensors: map[string]Tensor{"a": {Shape: []int{2}, Data: []float32{1}}}}, "has 2 elements, the data has 1"},
		"not a number":            {File{Tensors: map[string]Tensor{"a": {Shape: []int{1}, Data: []float32{float32(math.NaN())}}}}, "element 0 is NaN"},
		"the reserved name":       {File{Tensors: map[string]Tensor{"__metadata__": {Shape: []int{0}}}}, "reserved"},
		"too much metadata":       {File{Metadata: map[string]string{"a": strings.Repeat("x", MaxHeader)}}, "too many"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.file.Encode()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v; want one that says %q", err, tc.want)
			}
		})
	}
}

func TestTensorIsFoundByNameAndShape(t *testing.T) {
	f := sample()
	if got, err := f.Tensor("b", 2); err != nil || got.Data[1] != -2 {
		t.Errorf("tensor b = %v, %v", got, err)
	}
	if _, err := f.Tensor("c", 2); err == nil || !strings.Contains(err.Error(), `"c" is missing; the file holds a, b`) {
		t.Errorf("missing tensor: %v", err)
	}
	if _, err := f.Tensor("a", 3); err == nil || !strings.Contains(err.Error(), "has shape [1 3]; want [3]") {
		t.Errorf("wrong shape: %v", err)
	}
}

func TestWriteFileReplacesWholeFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "w.safetensors")
	if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(name, sample()); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Errorf("file differs (-want +got):\n%s", diff)
	}
	left, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(left) != 1 {
		t.Errorf("directory holds %v, %v; want the file alone", left, err)
	}
}

func TestFailedWriteLeavesTheOldFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "w.safetensors")
	if err := WriteFile(name, sample()); err != nil {
		t.Fatal(err)
	}
	bad := &File{Tensors: map[string]Tensor{"a": {Shape: []int{2}}}}
	if err := WriteFile(name, bad); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("error is %v; want one that names the file", err)
	}
	if _, err := ReadFile(name); err != nil {
		t.Errorf("the old file is damaged: %v", err)
	}
	if err := WriteFile(filepath.Join(name, "below", "a", "file"), sample()); err == nil {
		t.Error("a directory that cannot be is no error")
	}
	target := filepath.Join(t.TempDir(), "taken")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(target, sample()); err == nil {
		t.Error("a directory in the file's place is no error")
	}
	if left, err := os.ReadDir(filepath.Dir(target)); err != nil || len(left) != 1 {
		t.Errorf("directory holds %v, %v; want nothing left behind", left, err)
	}
}

func TestReadFileNamesTheFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "broken.safetensors")
	if err := os.WriteFile(name, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(name); err == nil || !strings.Contains(err.Error(), name+": the file ends after 6 bytes") {
		t.Errorf("error is %v", err)
	}
	if _, err := ReadFile(name + ".gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v; want one that wraps fs.ErrNotExist", err)
	}
	if _, err := ReadFile(t.TempDir()); err == nil {
		t.Error("a directory is no error")
	}
}

func TestBaseDecodes(t *testing.T) {
	f, err := Decode(Base())
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Tensors) == 0 || f.Metadata["version"] == "" {
		t.Errorf("base weights hold %d tensors and version %q", len(f.Tensors), f.Metadata["version"])
	}
	Base()[0]++
	if !bytes.Equal(Base(), base) {
		t.Error("a caller can change the embedded weights")
	}
}

func FuzzDecode(f *testing.F) {
	data, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(raw(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 1))
	f.Add(raw(`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Decode(data)
		if err != nil {
			return
		}
		again, err := file.Encode()
		if err != nil {
			t.Fatalf("decoded file does not encode: %v", err)
		}
		back, err := Decode(again)
		if err != nil {
			t.Fatalf("encoded file does not decode: %v", err)
		}
		if !cmp.Equal(file.Metadata, back.Metadata) || len(file.Tensors) != len(back.Tensors) {
			t.Fatal("a round trip changed the file")
		}
	})
}
