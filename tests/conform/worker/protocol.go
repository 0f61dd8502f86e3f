// Package worker runs conformance cases in processes of their own: a driver that crashes, hangs or loses its device takes
// one case with it and not the run.
//
// A worker reads one Request per line of JSON from its standard input and answers each with one line on its standard
// output, which begins with a mark, so that what a driver prints is not taken for an answer. Before the first request it
// says Hello. It ends when its input does, and after a lost device.
package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/vkmoe/vkmoe/tests/conform"
	"github.com/vkmoe/vkmoe/vk"
)

// mark begins every line of the protocol.
const mark = "@vkmoe-conform "

// Hello is a worker's first line: the device it has opened, or why it has none.
type Hello struct {
	Device *conform.Device `json:"device,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// A Request asks for one case.
type Request struct {
	Case     string `json:"case"`
	Seed     uint64 `json:"seed"`
	Evidence string `json:"evidence,omitempty"`
	Attempt  int    `json:"attempt,omitempty"`
	Before   bool   `json:"before,omitempty"` // evidence is wanted before the run, which may end the process
}

// Serve is the worker's side: it opens a device and runs what it is asked for until in ends.
func Serve(ctx context.Context, in io.Reader, out io.Writer, opts vk.Options) error {
	dev, err := vk.Open(opts)
	if err != nil {
		return errors.Join(send(out, Hello{Error: err.Error()}), err)
	}
	d := conform.Describe(dev.Adapter())
	if err := send(out, Hello{Device: &d}); err != nil {
		return errors.Join(err, dev.Close())
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var q Request
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return errors.Join(err, dev.Close())
		}
		c, known := conform.Find(q.Case)
		if !known {
			return errors.Join(fmt.Errorf("no case is called %q", q.Case), dev.Close())
		}
		r := conform.Run(ctx, dev, c, conform.Options{Seed: q.Seed, Evidence: q.Evidence, Attempt: q.Attempt, Before: q.Before})
		if err := send(out, r); err != nil || r.Status == conform.Lost {
			return errors.Join(err, dev.Close())
		}
	}
	return errors.Join(lines.Err(), dev.Close())
}

func send(out io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(out, "%s%s\n", mark, data)
	}
	return err
}
