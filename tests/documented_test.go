package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// public are the packages that users import.
var public = []string{"vk", "moe", "attention", "model", "model/train", "model/tokenizer"}

// speaksForItself are methods whose meaning the standard library gives.
var speaksForItself = map[string]bool{"Error": true, "String": true, "Unwrap": true, "Is": true}

func TestPublicNamesAreDocumented(t *testing.T) {
	seen := 0
	for _, dir := range public {
		fset := token.NewFileSet()
		packages, err := parser.ParseDir(fset, path.Join("..", dir), func(f fs.FileInfo) bool {
			return !strings.HasSuffix(f.Name(), "_test.go")
		}, parser.ParseComments)
		require.NoError(t, err)
		for _, p := range packages {
			for _, file := range p.Files {
				for _, d := range file.Decls {
					for _, name := range undocumented(d) {
						t.Errorf("%s: %s has no doc comment", fset.Position(d.Pos()), name)
					}
					seen++
				}
			}
		}
	}
	require.Greater(t, seen, 1000, "the declarations were not found")
}

// undocumented are the public names of a declaration that nothing is said about.
func undocumented(d ast.Decl) []string {
	var names []string
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && !speaksForItself[d.Name.Name] && (d.Recv == nil || publicType(d.Recv.List[0].Type)) {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}

// publicType reports whether a receiver's type is public.
func publicType(t ast.Expr) bool {
	switch t := t.(type) {
	case *ast.StarExpr:
		return publicType(t.X)
	case *ast.IndexExpr:
		return publicType(t.X)
	case *ast.Ident:
		return t.IsExported()
	}
	return false
}
