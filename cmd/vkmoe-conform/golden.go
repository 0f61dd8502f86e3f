package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vkmoe/vkmoe/tests/golden"
	"github.com/vkmoe/vkmoe/vk"
)

// dtypes are the values of --dtype.
var dtypes = map[string]vk.DType{"f32": vk.F32, "f16": vk.F16, "bf16": vk.BF16}

// newGoldenCommand is the subcommand that judges the library against recorded models.
func newGoldenCommand() *cobra.Command {
	var device, only, dtype string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "golden DIR",
		Short: "Compare layers of recorded models with what another implementation computed",
		Long: `DIR is a model folder, with config.json, model.safetensors (or its shards and their index) and expected.safetensors,
or a folder of such folders. Every part that the library supports runs on the device and is compared with the recorded
values; one line is printed per tensor.

The relative error (Frobenius norm of the difference over that of the recorded values) must be at most 1e-5 in f32. With
--dtype f16 or bf16, weights, inputs, intermediates and outputs are rounded to that type; sums are f32. The limit is then
four times the type's unit roundoff, 4 x 2^-11 = 0.00195 for f16 and 4 x 2^-8 = 0.0156 for bf16: sixteen independent
roundings, each at most that unit, lie between input and output of an MLP and add in squares; attention is held to the
same limit. Logits, loss and gradients of the whole model are judged in f32 only: logits and loss by the limit above, the
gradient of the loss with respect to every parameter (expected_grads.safetensors) by 1e-4. Every token must go to the experts that exact arithmetic on the rounded weights and input chooses; where these
are not the recorded ones, its values are compared with what the chosen ones give.

Exit code 0: all that was asked for passes. 1: something fails. 2: the input or the device cannot be used, or a part
named by --only is not supported.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			parts, err := golden.ParseParts(only)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("only") && len(parts) == 0 {
				return errors.New("--only names no part")
			}
			storage, known := dtypes[dtype]
			if !known {
				return fmt.Errorf("unknown dtype %q; dtypes are f32, bf16 and f16", dtype)
			}
			var dev *vk.Device
			open := func() (golden.Runner, *golden.DeviceInfo, error) {
				var err error
				if dev, err = vk.Open(vk.Options{Device: device}); err != nil {
					return nil, nil, err
				}
				runner := golden.Device{Device: dev}
				return runner, runner.Info(), nil
			}
			report := golden.Run(cmd.Context(), args[0], golden.Options{Only: parts, DType: storage, Open: open})
			if dev != nil {
				// A device that does not close cleanly has leaked or lost something: no pass, whatever the values.
				report.Unusable = errors.Join(report.Unusable, dev.Close())
			}
			write := report.WriteText
			if asJSON {
				write = report.WriteJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return err
			}
			if code := report.Exit(); code != golden.ExitPass {
				return exitError(code)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "index or part of the name of the device; default VKMOE_DEVICE, else the best one")
	cmd.Flags().StringVar(&only, "only", "", "parts to run, comma-separated: mlp, attention, logits, grads; default all supported")
	cmd.Flags().StringVar(&dtype, "dtype", "f32", "storage of weights and activations: f32, bf16 or f16")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of text")
	return cmd
}
