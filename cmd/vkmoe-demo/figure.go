package main

import (
	"cmp"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vkmoe/vkmoe/internal/picture"
)

// pictureFile is the name of the picture within the output folder.
const pictureFile = "routing.png"

// pictureScale is the picture's pixels per unit of its layout, which is 1,000 units wide.
const pictureScale = 2

// An outputPicture is the picture's file while it is not complete: a temporary one in the same folder.
type outputPicture struct {
	path string // the final one
	file *os.File
}

// createPicture makes the folder where it does not exist, and the temporary file.
func createPicture(dir string) (*outputPicture, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the output folder: %w", err)
	}
	f, err := os.CreateTemp(dir, ".routing-*.png")
	if err != nil {
		return nil, fmt.Errorf("cannot write to the output folder: %w", err)
	}
	return &outputPicture{filepath.Join(dir, pictureFile), f}, nil
}

// commit draws the picture, writes it and gives the file its name. Until it succeeds an older picture stays as it was.
func (p *outputPicture) commit(r *picture.Routing) error {
	img, err := r.Draw(pictureScale)
	if err != nil {
		return err
	}
	// CreateTemp makes files that only their owner may read.
	err = errors.Join(writePicture(p.file, img), p.file.Chmod(0o644), p.file.Close())
	if err == nil {
		err = os.Rename(p.file.Name(), p.path)
	}
	if err != nil {
		return fmt.Errorf("cannot write the picture: %w", err)
	}
	return nil
}

// writePicture writes a PNG and waits until it is on the disk.
func writePicture(f *os.File, img image.Image) error {
	if err := png.Encode(f, img); err != nil {
		return err
	}
	return f.Sync()
}

// discard removes the temporary file; after a commit there is none.
func (p *outputPicture) discard() {
	p.file.Close()
	os.Remove(p.file.Name())
}

// figure turns a result into the picture's data.
func figure(r *result) *picture.Routing {
	c := r.Layer.Config
	_, device, _ := strings.Cut(r.Adapter.String(), ": ") // without the index, which means nothing elsewhere
	return &picture.Routing{
		Title: "Where a Mixture-of-Experts layer sends each character of a text",
		Subtitle: fmt.Sprintf("%s, layer %d: %d experts, %d per token, width %d, hidden width %d, computed by vkmoe",
			r.Layer.Name, r.Layer.Number, c.Experts, c.TopK, c.Width, c.Hidden),
		Device:   "on " + device,
		TextName: r.Text.Name,
		Text:     r.Text.Characters,
		Experts:  c.Experts, K: c.TopK,
		IDs: r.IDs, Gates: r.Gates,
		Cards:  []picture.Card{r.agreementCard(), r.balanceCard(), r.speedCard(), r.kernelCard()},
		Footer: r.footer(),
	}
}

func (r *result) agreementCard() picture.Card {
	a := r.Agreement
	card := picture.Card{Heading: "Agreement with the reference", Value: fmt.Sprintf("%.1e", a.Error), Tone: picture.Good}
	if !a.Pass {
		card.Tone = picture.Bad
	}
	card.Lines = []string{
		fmt.Sprintf("relative error of the outputs (Frobenius) against float64 on the CPU; limit %.0e", tolerance),
		fmt.Sprintf("experts equal for %s of %s tokens%s", picture.Thousands(a.SameChoices), picture.Thousands(a.Tokens), a.ties()),
	}
	return card
}

func (r *result) balanceCard() picture.Card {
	return picture.Card{
		Heading: "Balance of the load", Value: fmt.Sprintf("%.2f × even", r.Load.Balance),
		Lines: []string{
			"busiest expert over an even share",
			fmt.Sprintf("entropy %.2f of %.2f bits", r.Load.Entropy, math.Log2(float64(len(r.Load.Counts)))),
			fmt.Sprintf("experts without a token: %d", r.Load.Idle),
		},
	}
}

func (r *result) speedCard() picture.Card {
	return picture.Card{
		Heading: "Speed and memory", Value: si(r.rate()) + " tokens/s",
		Lines: []string{
			fmt.Sprintf("%s tokens in %d submits: %s,", picture.Thousands(len(r.Text.Characters)), r.Submits, duration(r.Wall)),
			fmt.Sprintf("mean of %d passes", max(1, r.Options.Steps-1)),
			fmt.Sprintf("device memory: %s live,", bytes(r.Memory.LiveBytes)),
			bytes(r.Memory.PeakBytes) + " at its peak",
		},
	}
}

// kernelCard shows the labels that took the most device time, and sums up the rest.
func (r *result) kernelCard() picture.Card {
	card := picture.Card{Heading: "Device time of a pass"}
	if len(r.Kernels) == 0 {
		card.Lines = []string{"The device has no timestamps."}
		return card
	}
	const rows = 9
	kernels := slices.Clone(r.Kernels)
	slices.SortStableFunc(kernels, func(a, b kernelTime) int { return cmp.Compare(b.Time, a.Time) })
	if len(kernels) > rows {
		var rest time.Duration
		for _, k := range kernels[rows-1:] {
			rest += k.Time
		}
		kernels = append(kernels[:rows-1], kernelTime{"others", rest})
	}
	for _, k := range kernels {
		card.Bars = append(card.Bars, picture.Bar{Label: k.Label, Value: duration(k.Time), Share: ratio(k.Time, kernels[0].Time)})
	}
	return card
}

func (r *result) footer() string {
	text := "github.com/vkmoe/vkmoe: cmd/vkmoe-demo. One token a character; "
	if r.Options.Context > 0 {
		text += fmt.Sprintf("the layer's input mixes in %g of what came before. ", r.Options.Context)
	} else {
		text += "the layer's input is the character's embedding. "
	}
	if slices.Contains(builtIn(), r.Layer.Name) {
		text += "The model is tiny and its weights are random."
	}
	return text
}
