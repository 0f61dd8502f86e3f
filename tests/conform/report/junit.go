package report

import (
	"encoding/xml"
	"fmt"
	"io"

	"github.com/vkmoe/vkmoe/tests/conform"
)

type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       string          `xml:"time,attr"`
	Timestamp  string          `xml:"timestamp,attr"`
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Time    string        `xml:"time,attr"`
	Failure *junitMessage `xml:"failure,omitempty"`
	Error   *junitMessage `xml:"error,omitempty"`
	Skipped *junitMessage `xml:"skipped,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes the cases as JUnit XML. Crashes, time-outs and lost devices are errors, unsupported and waived cases are
// skipped with their reason.
func (r *Report) WriteJUnit(w io.Writer) error {
	s := junitSuite{Name: "vkmoe-conform " + r.Name(), Tests: len(r.Cases), Time: fmt.Sprintf("%.3f", r.Seconds),
		Timestamp: r.Started.Format("2006-01-02T15:04:05"), Properties: []junitProperty{
			{"device", r.Device.Name}, {"driver", r.Device.Driver + " " + r.Device.DriverInfo}, {"driver_uuid", r.Device.DriverUUID},
			{"api", r.Device.API}, {"seed", fmt.Sprint(r.Run.Seed)}, {"suite", r.Suite}}}
	for _, c := range r.Cases {
		j := junitCase{Class: Group(c.Name), Name: c.Name, Time: fmt.Sprintf("%.3f", c.Seconds)}
		m := &junitMessage{Message: fmt.Sprintf("%s: %s", c.Status, c.Reason), Text: c.Repro}
		switch c.Status {
		case conform.Pass:
		case conform.Fail:
			j.Failure = m
			s.Failures++
		case conform.Unsupported, conform.Waived:
			j.Skipped = m
			s.Skipped++
		default:
			j.Error = m
			s.Errors++
		}
		s.Cases = append(s.Cases, j)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", " ")
	if err := e.Encode(junitSuites{Suites: []junitSuite{s}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
