package golden

import (
	"context"

	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/vk"
)

// A Device runs blocks with the library on a device that the caller owns.
type Device struct{ *vk.Device }

// Info names the device.
func (d Device) Info() *DeviceInfo {
	a := d.Adapter()
	return &DeviceInfo{Name: a.Name, Type: a.Type.String(), Driver: a.DriverName, DriverInfo: a.DriverInfo, API: a.API.String()}
}

// RunMLP runs the block as one recording: upload, one submission, download.
func (d Device) RunMLP(ctx context.Context, w *model.MLPWeights, x []float32, tokens int) (out []float32, ids []int32, err error) {
	layer, err := model.NewMLP(ctx, d.Device, w)
	if err != nil {
		return nil, nil, err
	}
	defer layer.Close()
	in, err := d.NewTensor(w.Config.DType, tokens, w.Config.Width)
	if err != nil {
		return nil, nil, err
	}
	defer in.Close()
	result, err := d.NewTensor(w.Config.DType, tokens, w.Config.Width)
	if err != nil {
		return nil, nil, err
	}
	defer result.Close()
	if err := vk.Upload(ctx, in, x); err != nil {
		return nil, nil, err
	}
	rec, err := d.NewRecorder()
	if err != nil {
		return nil, nil, err
	}
	defer rec.Close()
	saved, err := layer.Forward(rec, in, result)
	if err != nil {
		return nil, nil, err
	}
	if err := rec.Run(ctx); err != nil {
		return nil, nil, err
	}
	if ids, err = vk.Download[int32](ctx, saved.Routing.IDs); err != nil {
		return nil, nil, err
	}
	out, err = vk.Download[float32](ctx, result)
	return out, ids, err
}
