package worker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// process is a running worker.
type process struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan []byte // lines of the protocol; closed when the process says no more
	output  *tail
}

// errTimeout is a worker that did not answer in time.
var errTimeout = errors.New("no answer in time")

// start runs a worker and waits for its Hello.
func start(command, env []string, limit time.Duration) (*process, *Hello, error) {
	p := &process{cmd: exec.Command(command[0], command[1:]...), answers: make(chan []byte), output: &tail{}}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.output
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	p.in = in
	if err := p.cmd.Start(); err != nil {
		return nil, nil, err
	}
	go p.read(out)
	var hello Hello
	if err := p.answer(&hello, limit); err != nil {
		how := p.kill()
		return nil, nil, fmt.Errorf("the worker did not open a device: %w (%s)\n%s", err, how, p.output)
	}
	if hello.Device == nil {
		p.kill()
		return nil, nil, errors.New(hello.Error)
	}
	return p, &hello, nil
}

// read passes lines of the protocol on and keeps what else the process prints.
func (p *process) read(out io.Reader) {
	defer close(p.answers)
	r := bufio.NewReaderSize(out, 1<<16)
	for {
		line, err := r.ReadBytes('\n')
		if data, ours := bytes.CutPrefix(line, []byte(mark)); ours {
			p.answers <- data
		} else if len(line) > 0 {
			p.output.Write(line)
		}
		if err != nil {
			return
		}
	}
}

// ask sends a request.
func (p *process) ask(q Request) error {
	data, err := json.Marshal(q)
	if err == nil {
		_, err = p.in.Write(append(data, '\n'))
	}
	return err
}

// answer waits for one line and decodes it. It fails with errTimeout, and with io.EOF when the process ended.
func (p *process) answer(v any, limit time.Duration) error {
	clock := time.NewTimer(limit)
	defer clock.Stop()
	select {
	case data, ok := <-p.answers:
		if !ok {
			return io.EOF
		}
		return json.Unmarshal(data, v)
	case <-clock.C:
		return errTimeout
	}
}

// stop ends a worker that has nothing to do and says how it ended; one that does not end by itself is killed.
func (p *process) stop(limit time.Duration) error {
	p.in.Close()
	done := make(chan error, 1)
	go func() {
		for range p.answers { // it may still be writing
		}
		done <- p.cmd.Wait()
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("a worker ended with %w\n%s", err, p.output)
		}
		return nil
	case <-time.After(limit):
		p.cmd.Process.Kill()
		<-done
		return fmt.Errorf("a worker did not end within %v", limit)
	}
}

// kill ends the process at once and says how it ended.
func (p *process) kill() string {
	p.cmd.Process.Kill()
	p.in.Close()
	for range p.answers {
	}
	p.cmd.Wait()
	return p.cmd.ProcessState.String()
}

// tail keeps the first and the last bytes written to it: the first say why a process ends, the last where it was.
type tail struct {
	mu         sync.Mutex
	head, data []byte
}

const headBytes, tailBytes = 2048, 4096

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := min(len(b), headBytes-len(t.head))
	t.head = append(t.head, b[:first]...)
	t.data = append(t.data, b[first:]...)
	if len(t.data) > 2*tailBytes {
		t.data = append([]byte(nil), t.data[len(t.data)-tailBytes:]...)
	}
	return len(b), nil
}

// String is what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text, data := string(t.head), t.data
	if len(data) > tailBytes {
		text, data = text+"\n…\n", data[len(data)-tailBytes:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(text+string(data), "?"))
}
