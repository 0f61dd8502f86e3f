module github.com/vkmoe/vkmoe

go 1.24

require github.com/vulkan-go/vulkan v0.0.0-20221209234627-c0a353ae26c8
