package check

import "fmt"

// A ConfigError is a field of a configuration that makes no sense, or that does not fit the others.
type ConfigError struct {
	Config, Field string // the struct's name and the field's
	Want, Got     string // what it may hold, in words, and what it holds
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("vkmoe: %s.%s is %s, want %s", e.Config, e.Field, e.Got, e.Want)
}

// Config makes a *ConfigError.
func Config(config, field, want, got string) error {
	return &ConfigError{Config: config, Field: field, Want: want, Got: got}
}

// InRange makes a *ConfigError of a number outside [low, high].
func InRange(config, field string, got, low, high int) error {
	if got >= low && got <= high {
		return nil
	}
	return Config(config, field, fmt.Sprintf("%d to %d", low, high), fmt.Sprint(got))
}

// First returns the first error that is not nil.
func First(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
