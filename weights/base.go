package weights

import (
	"bytes"
	_ "embed"
)

//go:embed base.safetensors
var base []byte

// Base returns the weights that ship with the binary, in the safetensors
// format. README.md beside this file says how they were made and how good they
// are. The caller owns the copy.
func Base() []byte { return bytes.Clone(base) }
