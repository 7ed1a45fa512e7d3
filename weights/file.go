package weights

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ReadFile decodes the named file. The error names it and says what is wrong.
func ReadFile(name string) (*File, error) {
	r, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read weights: %w", err)
	}
	defer r.Close() //nolint:errcheck // Nothing was written.
	f, err := Read(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// WriteFile puts f under the given name. It writes aside in the same directory,
// syncs and renames, so that a reader sees the old file or the new one, whole,
// even when the machine stops in between.
func WriteFile(name string, f *File) error {
	data, err := f.Encode()
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := replace(name, data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func replace(name string, data []byte) (err error) {
	dir := filepath.Dir(name)
	aside, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(aside.Name()))
		}
	}()
	if err := fill(aside, data); err != nil {
		return err
	}
	if err := os.Rename(aside.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

func fill(w *os.File, data []byte) error {
	_, err := w.Write(data)
	if err == nil {
		err = w.Chmod(0o644)
	}
	if err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

// syncDir makes the rename itself survive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
