package attention

import "github.com/vkmoe/vkmoe/internal/check"

// A ConfigError is a field of a configuration that makes no sense, or that does not fit the others: Config and Field name it,
// Want says what it may hold and Got what it holds. It is the same type as moe.ConfigError.
type ConfigError = check.ConfigError
