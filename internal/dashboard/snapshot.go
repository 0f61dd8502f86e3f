// Package dashboard draws a training run onto a canvas: losses, speed, time per kernel, memory, the load of experts and the
// text that is being read, coloured by expert; and it turns keys and the mouse into actions. It knows nothing of devices,
// models or windows.
//
// All places and sizes are in logical units; see package canvas.
package dashboard

// A State says what a run is doing.
type State uint8

// The states.
const (
	Starting State = iota
	Training
	Paused
	Writing
	Finished // all steps are done
	Reading  // a checkpoint, which is not trained
	Failed
)

func (s State) String() string {
	return [...]string{"starting", "training", "paused", "writing", "finished", "reading", "failed"}[s]
}

// A Snapshot is a run at one moment. Whoever makes it never changes it again, nor anything it refers to.
type Snapshot struct {
	Serial  uint64 // differs from snapshot to snapshot
	State   State
	Problem string // why it failed
	Notice  string // the newest thing worth a line, such as where a file was saved

	Device, Driver string
	DType          string
	Model          string // sizes, or the name of a checkpoint
	TextName       string
	Dense          bool // one MLP in place of experts
	K, Experts     int
	Layers         int
	Speed          int // percent of the time that training may take

	Step, Steps int // done, and of the whole run; 0 for no end
	Curves      []Curve
	Marks       []Mark

	TokensPerSecond float64
	FLOPS           float64 // floating-point operations per second of the model's matrices, by their sizes
	Times           []StepTime
	Memory          Memory

	Routers []Router
	Spread  []Spread
	Text    []string // the tokens being read

	Prompt, Written string
	Answers         int    // how many prompts have been dealt with
	Earlier         []Text // what was written before, the oldest first
}

// A Text is what a model wrote after a step.
type Text struct {
	Step            int
	Prompt, Written string
}

// A Point is a value at a step.
type Point struct {
	Step  int     `json:"step"`
	Value float64 `json:"value"`
}

// A Curve is the losses of a model in nats per token.
type Curve struct {
	Name    string  `json:"name"`
	Train   []Point `json:"train"`
	HeldOut []Point `json:"held_out"`
}

// A Mark is a change that explains a bend in the curves.
type Mark struct {
	Step  int    `json:"step"`
	Label string `json:"label"`
}

// The groups of kernels whose GPU time is told apart.
const (
	LinearForward = iota
	LinearDX
	LinearDW
	Attention
	Routing
	Other
	Groups // their number
)

// GroupNames are the groups' names.
var GroupNames = [Groups]string{"ParallelLinear forward", "ParallelLinear dX", "ParallelLinear dW", "attention", "routing",
	"norms, optimizer, rest"}

// shortNames are GroupNames where there is little room.
var shortNames = [Groups]string{"linear forward", "linear dX", "linear dW", "attention", "routing", "rest"}

// A StepTime is the GPU time of a step by group, in seconds.
type StepTime struct {
	Step    int
	Seconds [Groups]float64
}

// Memory is the device memory of a run in bytes.
type Memory struct {
	Live, Peak uint64
	Extra      uint64 // what an implementation with padded and grouped copies would need more
}

// A Router is the choice of experts of one block of one layer.
type Router struct {
	Layer int
	Block string // attention or MLP
	K     int
	Load  []int // tokens of the newest step that each expert got

	// The choices for Snapshot.Text: slot j of token t is at t·K + j.
	IDs   []int32
	Gates []float32
}

// A Spread says how evenly the experts of all routers were used in a step.
type Spread struct {
	Step    int     `json:"step"`
	Balance float64 `json:"balance"` // the busiest expert's share over an even one, the mean over the routers; 1 is even
	Entropy float64 `json:"entropy"` // of the load over its largest value, the mean over the routers; 1 is even
}

// A Kind is what an Action asks for.
type Kind uint8

// The kinds of actions. A session does all but None and Quit; Report's text is for the caller's clipboard.
const (
	None        Kind = iota
	Pause            // or go on
	Step             // one step, and pause
	SetSpeed         // N percent
	SetK             // N experts per token
	ToggleDense      // one MLP, or experts
	NextDevice
	NextDType
	Write // continue Text
	Save
	Load
	Report
	Quit
)

// An Action is something that a person wants done.
type Action struct {
	Kind Kind
	N    int
	Text string
}
