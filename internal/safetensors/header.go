package safetensors

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"
)

const metadataKey = "__metadata__"

// header is a parsed and checked header.
type header struct {
	tensors  []*Info // by position in the data
	byName   map[string]*Info
	metadata map[string]string
}

// parseHeader parses the JSON text of a header and checks it against the length of the data section.
func parseHeader(path string, text []byte, dataBytes int64) (*header, error) {
	h := &header{byName: map[string]*Info{}}
	fail := func(fault Fault, tensor, format string, args ...any) error {
		return &FormatError{fault, path, tensor, fmt.Sprintf(format, args...)}
	}
	if !utf8.Valid(text) {
		return nil, fail(HeaderSyntax, "", "not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	err := eachMember(dec, func(name string) error {
		if name == metadataKey {
			return h.parseMetadata(dec, fail)
		}
		info, err := parseInfo(dec, name, fail)
		if err != nil {
			return err
		}
		h.byName[name] = info
		h.tensors = append(h.tensors, info)
		return nil
	})
	if err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = fail(HeaderSyntax, "", "text after the header's object")
		}
	}
	if err != nil {
		return nil, asFormatError(err, "", fail)
	}
	return h, h.checkRanges(dataBytes, fail)
}

type failFunc func(fault Fault, tensor, format string, args ...any) error

// errDuplicate is a repeated member name.
type errDuplicate struct{ name string }

func (e errDuplicate) Error() string { return fmt.Sprintf("member %q appears twice", e.name) }

// asFormatError keeps a *FormatError and makes one of any JSON error.
func asFormatError(err error, tensor string, fail failFunc) error {
	var format *FormatError
	var duplicate errDuplicate
	switch {
	case errors.As(err, &format):
		return err
	case errors.As(err, &duplicate):
		if tensor == "" {
			tensor = duplicate.name
		}
		return fail(DuplicateName, tensor, "%v", err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fail(HeaderSyntax, tensor, "the JSON text ends early")
	}
	return fail(HeaderSyntax, tensor, "%v", err)
}

// eachMember reads one JSON object and calls value at each member, whose value it must consume. Unlike json.Unmarshal it
// matches names exactly and refuses one that is repeated.
func eachMember(dec *json.Decoder, value func(name string) error) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	if tok != json.Delim('{') {
		return fmt.Errorf("%v where an object should start", tok)
	}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		name, ok := tok.(string)
		if !ok {
			return fmt.Errorf("%v where a member name should be", tok)
		}
		if seen[name] {
			return errDuplicate{name}
		}
		seen[name] = true
		if err := value(name); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

func (h *header) parseMetadata(dec *json.Decoder, fail failFunc) error {
	h.metadata = map[string]string{}
	err := eachMember(dec, func(name string) error {
		var text *string
		if err := dec.Decode(&text); err != nil {
			return err
		}
		if text == nil {
			return fmt.Errorf("member %q is null, not a string", name)
		}
		h.metadata[name] = *text
		return nil
	})
	if err != nil {
		return asFormatError(err, metadataKey, fail)
	}
	return nil
}

func parseInfo(dec *json.Decoder, name string, fail failFunc) (*Info, error) {
	info := &Info{Name: name}
	var dtype *string
	var shape, offsets []json.Number
	err := eachMember(dec, func(member string) error {
		switch member {
		case "dtype":
			return dec.Decode(&dtype)
		case "shape":
			return decodeNumbers(dec, &shape)
		case "data_offsets":
			return decodeNumbers(dec, &offsets)
		}
		var ignored json.RawMessage
		return dec.Decode(&ignored)
	})
	if err != nil {
		return nil, asFormatError(err, name, fail)
	}
	if dtype == nil || shape == nil || len(offsets) != 2 {
		return nil, fail(HeaderSyntax, name, "needs dtype, shape and two data_offsets")
	}
	info.DType = DType(*dtype)
	if info.DType.Bytes() == 0 {
		return nil, fail(UnknownDType, name, "%q", *dtype)
	}
	for _, number := range shape {
		dim, err := parseSize(number)
		if err != nil {
			return nil, fail(sizeFault(number, NegativeDim), name, "dimension %s: %v", number, err)
		}
		info.Shape = append(info.Shape, int(dim))
	}
	if info.begin, err = parseSize(offsets[0]); err != nil {
		return nil, fail(sizeFault(offsets[0], BadOffsets), name, "offset %s: %v", offsets[0], err)
	}
	if info.end, err = parseSize(offsets[1]); err != nil {
		return nil, fail(sizeFault(offsets[1], BadOffsets), name, "offset %s: %v", offsets[1], err)
	}
	return info, info.checkSize(fail)
}

// decodeNumbers reads an array of numbers. Decoding into []json.Number would also take null and quoted numbers.
func decodeNumbers(dec *json.Decoder, numbers *[]json.Number) error {
	var values []any
	if err := dec.Decode(&values); err != nil {
		return err
	}
	*numbers = make([]json.Number, len(values))
	for i, v := range values {
		number, ok := v.(json.Number)
		if !ok {
			return fmt.Errorf("%v where a number should be", v)
		}
		(*numbers)[i] = number
	}
	return nil
}

// parseSize reads a whole number from 0 to the largest int.
func parseSize(number json.Number) (int64, error) {
	v, err := strconv.ParseInt(number.String(), 10, 64)
	switch {
	case err != nil:
		return 0, errors.Unwrap(err)
	case v < 0:
		return 0, errors.New("negative")
	case v > math.MaxInt:
		return 0, strconv.ErrRange
	}
	return v, nil
}

// sizeFault says which fault a number that parseSize refused is.
func sizeFault(number json.Number, negative Fault) Fault {
	_, err := strconv.ParseInt(number.String(), 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) && number[0] != '-':
		return SizeOverflow
	case err != nil && number[0] != '-':
		return HeaderSyntax
	}
	return negative
}

// checkSize compares the byte range with shape × dtype.
func (i *Info) checkSize(fail failFunc) error {
	if i.begin > i.end {
		return fail(BadOffsets, i.Name, "begins at byte %d and ends at %d", i.begin, i.end)
	}
	size := uint64(i.DType.Bytes())
	for _, dim := range i.Shape {
		high, low := bits.Mul64(size, uint64(dim))
		if high != 0 || low > math.MaxInt64 {
			return fail(SizeOverflow, i.Name, "shape %v of %s", i.Shape, i.DType)
		}
		size = low
	}
	if size != uint64(i.end-i.begin) {
		return fail(SizeMismatch, i.Name, "shape %v of %s takes %d bytes, data_offsets span %d", i.Shape, i.DType, size, i.end-i.begin)
	}
	return nil
}

// checkRanges asks that the tensors cover the data section exactly: no overlap, no hole, nothing past the end.
func (h *header) checkRanges(dataBytes int64, fail failFunc) error {
	slices.SortFunc(h.tensors, func(a, b *Info) int {
		if a.begin != b.begin {
			return cmp.Compare(a.begin, b.begin)
		}
		return cmp.Compare(a.end, b.end)
	})
	var at int64
	last := ""
	for _, info := range h.tensors {
		switch {
		case info.begin < at:
			return fail(Overlap, info.Name, "begins at byte %d, inside tensor %q, which ends at %d", info.begin, last, at)
		case info.begin > at:
			return fail(Hole, info.Name, "begins at byte %d, %d bytes after the tensor before it", info.begin, info.begin-at)
		case info.end > dataBytes:
			return fail(Truncated, info.Name, "ends at byte %d of the data, the file holds %d", info.end, dataBytes)
		}
		at, last = info.end, info.Name
	}
	if at != dataBytes {
		return fail(Hole, "", "%d bytes after the last tensor", dataBytes-at)
	}
	return nil
}
