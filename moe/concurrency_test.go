package moe

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// TestOneLayerInManyRecorders records and runs one layer from several goroutines at once; each must get the bits that it
// gets alone.
func TestOneLayerInManyRecorders(t *testing.T) {
	cfg := MLPConfig{Experts: 8, TopK: 2, Width: 24, Hidden: 16}
	l := newLayer(t, cfg)
	forward := func(seed int) (out []float32, err error) {
		ctx := context.Background()
		tokens := 3 + 5*seed
		data := gputest.Normal(rand.New(rand.NewSource(int64(seed))), tokens*cfg.Width)
		x, err := dev.NewTensor(vk.F32, tokens, cfg.Width)
		if err != nil {
			return nil, err
		}
		defer x.Close()
		y, err := dev.NewTensor(vk.F32, tokens, cfg.Width)
		if err != nil {
			return nil, err
		}
		defer y.Close()
		rec, err := dev.NewRecorder()
		if err != nil {
			return nil, err
		}
		defer rec.Close()
		if _, err := l.Forward(rec, x, y); err != nil {
			return nil, err
		}
		if err := vk.Upload(ctx, x, data); err != nil {
			return nil, err
		}
		if err := rec.Run(ctx); err != nil {
			return nil, err
		}
		return vk.Download[float32](ctx, y)
	}
	const workers = 6
	var alone [workers][]float32
	for w := range workers {
		var err error
		alone[w], err = forward(w)
		require.NoError(t, err)
	}
	var group sync.WaitGroup
	failures := make(chan string, workers)
	for w := range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			for range 10 {
				got, err := forward(w)
				if err != nil {
					failures <- err.Error()
					return
				}
				for i := range got {
					if got[i] != alone[w][i] {
						failures <- fmt.Sprintf("worker %d: element %d is %v, alone %v", w, i, got[i], alone[w][i])
						return
					}
				}
			}
		}()
	}
	group.Wait()
	close(failures)
	for f := range failures {
		t.Error(f)
	}
}

// TestTopKOfManyWideRows is the largest choice the library offers, on enough rows to fill any device.
func TestTopKOfManyWideRows(t *testing.T) {
	tokens := 2000
	if testing.Short() {
		tokens = 100
	}
	k := newKit(t)
	data := logitsOf(rand.New(rand.NewSource(1)), tokens, MaxExperts)
	ids, gates, err := TopK(k.Rec, k.F32("logits", data, tokens, MaxExperts), RouterConfig{TopK: MaxTopK, Mode: SoftmaxTopK})
	require.NoError(t, err)
	k.Run()
	requireTopK(t, SoftmaxTopK, data, gputest.Download[int32](t, ids), gputest.Download[float32](t, gates), tokens, MaxExperts, MaxTopK)
}
