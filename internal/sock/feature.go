package sock

// A Feature is a part of the exporter that may or may not work on this host.
type Feature struct {
	Name   string `json:"feature"`
	Mode   string `json:"mode"`   // how it works, where there is more than one way
	Reason string `json:"reason"` // what is missing: a Reason constant, "failed", or a few words of a small fixed set
	Works  bool   `json:"works"`
}
