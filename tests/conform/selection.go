package conform

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A Selection says which cases are meant. The zero value means all that are not self tests.
type Selection struct {
	Include  []string // globs, of which one must match; none means all
	Exclude  []string // globs, of which none may match
	Required bool     // only the required list
	Shard    Shard
}

// A Shard is part Index, from 1 on, of Count nearly equal parts: every Count-th case. The zero value is everything.
type Shard struct{ Index, Count int }

// ParseShard reads N/M.
func ParseShard(text string) (Shard, error) {
	n, m, ok := strings.Cut(text, "/")
	index, err1 := strconv.Atoi(n)
	count, err2 := strconv.Atoi(m)
	if !ok || err1 != nil || err2 != nil || index < 1 || index > count {
		return Shard{}, fmt.Errorf("shard %q is not N/M with 1 ≤ N ≤ M", text)
	}
	return Shard{index, count}, nil
}

// Select returns the cases of the selection in the order of their names. It fails for a glob in Include that matches no
// case at all, which is most often a misspelled name.
func Select(s Selection) ([]Case, error) {
	include, exclude := compileGlobs(s.Include), compileGlobs(s.Exclude)
	matched := make([]bool, len(include))
	var list []Case
	for _, c := range table() {
		hidden := strings.HasPrefix(c.Name, selfTestPrefix)
		in := len(include) == 0 && !hidden
		for i, g := range include {
			if g.pattern.MatchString(c.Name) && (!hidden || strings.HasPrefix(g.text, strings.TrimSuffix(selfTestPrefix, "."))) {
				in, matched[i] = true, true
			}
		}
		if !in || matchesAny(exclude, c.Name) || s.Required && !c.Required && !hidden {
			continue
		}
		list = append(list, c)
	}
	for i, g := range include {
		if !matched[i] {
			return nil, fmt.Errorf("no case is called %q", g.text)
		}
	}
	if s.Shard.Count == 0 {
		return list, nil
	}
	var part []Case
	for i, c := range list {
		if i%s.Shard.Count == s.Shard.Index-1 {
			part = append(part, c)
		}
	}
	return part, nil
}

type glob struct {
	text    string
	pattern *regexp.Regexp
}

func compileGlobs(texts []string) []glob {
	var list []glob
	for _, t := range texts {
		list = append(list, glob{t, compileGlob(t)})
	}
	return list
}

// compileGlob makes a pattern for whole names.
func compileGlob(text string) *regexp.Regexp {
	p := regexp.QuoteMeta(text)
	p = strings.ReplaceAll(strings.ReplaceAll(p, `\*`, ".*"), `\?`, ".")
	if !strings.ContainsAny(text, "*?") {
		p += `(\..*)?`
	}
	return regexp.MustCompile("^" + p + "$")
}

func matchesAny(globs []glob, name string) bool {
	for _, g := range globs {
		if g.pattern.MatchString(name) {
			return true
		}
	}
	return false
}
