package kernel

import (
	"encoding/binary"
	"math"
	"reflect"
)

// Pack returns the members of a struct of push constants as a shader reads them: size bytes with member i at
// fields[i].Offset, little-endian.
func Pack(push any, fields []Field, size int) []byte {
	b, members := make([]byte, size), reflect.ValueOf(push)
	for i, f := range fields {
		at, member := b[f.Offset:], members.Field(i)
		if member.Kind() == reflect.Uint64 {
			binary.LittleEndian.PutUint64(at, member.Uint())
		} else {
			binary.LittleEndian.PutUint32(at, word(member))
		}
	}
	return b
}

// Words returns the bits of the members of a struct of specialization constants, in order.
func Words(spec any) []uint32 {
	members := reflect.ValueOf(spec)
	words := make([]uint32, members.NumField())
	for i := range words {
		words[i] = word(members.Field(i))
	}
	return words
}

// Defaults returns the struct of specialization constants T with the values that the source gives them.
func Defaults[T any](list []Constant) T {
	var spec T
	members := reflect.ValueOf(&spec).Elem()
	for i, c := range list {
		switch member := members.Field(i); member.Kind() {
		case reflect.Bool:
			member.SetBool(c.Default != 0)
		case reflect.Int32:
			member.SetInt(int64(int32(c.Default)))
		case reflect.Float32:
			member.SetFloat(float64(math.Float32frombits(c.Default)))
		default:
			member.SetUint(uint64(c.Default))
		}
	}
	return spec
}

// word is the bits of a member of 32 bits, and 0 or 1 for a bool.
func word(member reflect.Value) uint32 {
	switch member.Kind() {
	case reflect.Bool:
		if member.Bool() {
			return 1
		}
		return 0
	case reflect.Int32:
		return uint32(member.Int())
	case reflect.Float32:
		return math.Float32bits(float32(member.Float()))
	}
	return uint32(member.Uint())
}
