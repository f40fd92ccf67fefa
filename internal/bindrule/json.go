package bindrule

import (
	"encoding/json"
	"fmt"
)

// MarshalJSON implements json.Marshaler: true, false, or null for FlagUnknown.
func (f Flag) MarshalJSON() ([]byte, error) {
	switch f {
	case Yes:
		return []byte("true"), nil
	case No:
		return []byte("false"), nil
	default:
		return []byte("null"), nil
	}
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *Flag) UnmarshalJSON(b []byte) error {
	var on *bool
	if err := json.Unmarshal(b, &on); err != nil {
		return fmt.Errorf("read flag: %w", err)
	}
	*f = FlagUnknown
	if on != nil {
		*f = FlagOf(*on)
	}
	return nil
}
