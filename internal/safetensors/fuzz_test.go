package safetensors

import (
	"bytes"
	"io"
	"testing"
)

// FuzzNew asks that no input makes the reader panic, and that whatever it accepts can be read in full, adds up to the
// data section, and survives being written again.
func FuzzNew(f *testing.F) {
	f.Add(raw(`{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}`, zeros(8)...))
	f.Add(raw(`{"x":{"dtype":"F16","shape":[],"data_offsets":[0,2]},"y":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}} `, 1, 2))
	f.Add(raw(`{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,18446744073709551615]}}`))
	f.Add(raw(`{}`))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, input []byte) {
		file, err := parse(input)
		if err != nil {
			return
		}
		var entries []Entry
		total := 0
		for _, info := range file.Tensors() {
			r, err := file.Reader(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil || len(data) != info.Elements()*info.DType.Bytes() {
				t.Fatalf("%s: %d bytes, %v", info.Name, len(data), err)
			}
			total += len(data)
			if float32Decoder(info.DType) != nil {
				if _, err := file.Float32s(info.Name); err != nil {
					t.Fatal(err)
				}
			}
			entries = append(entries, Raw(info.Name, info.DType, info.Shape, data))
		}
		if want := len(input) - int(file.start); total != want {
			t.Fatalf("tensors hold %d bytes of %d", total, want)
		}
		var again bytes.Buffer
		if err := Write(&again, entries, file.Metadata()); err != nil {
			t.Fatal(err)
		}
		if _, err := parse(again.Bytes()); err != nil {
			t.Fatal(err)
		}
	})
}
