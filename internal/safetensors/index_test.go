package safetensors

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func shardedFolder(t *testing.T, index string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, WriteFile(filepath.Join(dir, "one.safetensors"), []Entry{Float32("a", []int{1}, []float32{1})}, nil))
	require.NoError(t, WriteFile(filepath.Join(dir, "two.safetensors"), []Entry{
		Float32("b", []int{1}, []float32{2}), Float32("c", []int{1}, []float32{3}),
	}, nil))
	require.NoError(t, os.WriteFile(filepath.Join(dir, IndexFile), []byte(index), 0o644))
	return dir
}

func TestOpenFolderReadsShards(t *testing.T) {
	dir := shardedFolder(t, `{"metadata":{"total_size":12},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}`)
	c, err := OpenFolder(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, c.Names(), "only what the index lists")
	var got [1]float32
	require.NoError(t, c.ReadFloat32("b", got[:]))
	require.Equal(t, float32(2), got[0])
	info, err := c.Info("a")
	require.NoError(t, err)
	require.Equal(t, []int{1}, info.Shape)

	var missing *MissingTensorError
	require.ErrorAs(t, c.ReadFloat32("c", got[:]), &missing)
	_, err = c.Info("c")
	require.ErrorAs(t, err, &missing)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
}

func TestOpenFolderPrefersTheSingleFile(t *testing.T) {
	dir := shardedFolder(t, `{`)
	require.NoError(t, WriteFile(filepath.Join(dir, SingleFile), []Entry{Float32("z", nil, []float32{9})}, nil))
	c, err := OpenFolder(dir)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, []string{"z"}, c.Names())
}

func TestOpenFolderRefusesBadIndexes(t *testing.T) {
	for name, index := range map[string]string{
		"not JSON":           `{`,
		"no weight map":      `{}`,
		"wrong type":         `{"weight_map":{"a":1}}`,
		"absent tensor":      `{"weight_map":{"zz":"one.safetensors"}}`,
		"path outside":       `{"weight_map":{"a":"../one.safetensors"}}`,
		"absolute path":      `{"weight_map":{"a":"/one.safetensors"}}`,
		"backslash path":     `{"weight_map":{"a":"..\\one.safetensors"}}`,
		"the folder itself":  `{"weight_map":{"a":"."}}`,
		"the folder above":   `{"weight_map":{"a":".."}}`,
		"an empty file name": `{"weight_map":{"a":""}}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := OpenFolder(shardedFolder(t, index))
			require.Error(t, err)
			if name != "the folder itself" { // a local name, refused when it is opened
				var format *FormatError
				require.ErrorAs(t, err, &format)
				require.Equal(t, BadIndex, format.Fault)
			}
		})
	}
	_, err := OpenFolder(shardedFolder(t, `{"weight_map":{"a":"three.safetensors"}}`))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestOpenFolderOfNothing(t *testing.T) {
	_, err := OpenFolder(t.TempDir())
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, SingleFile)
	require.ErrorContains(t, err, IndexFile)

	dir := shardedFolder(t, `{"weight_map":{"a":"one.safetensors"}}`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, SingleFile), []byte("short"), 0o644))
	_, err = OpenFolder(dir)
	var format *FormatError
	require.ErrorAs(t, err, &format, "a defective single file is not passed over")
}
