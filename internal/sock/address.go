package sock

// An Address is what is known of a local address that bind() has refused.
type Address struct {
	State AddressState
	// Device has the address, or is the one on which IPv6 is disabled. Any bytes; empty: none.
	Device string
	// Disabled counts, for AddressAbsent, the devices with IPv6 disabled. Device is the first of them.
	Disabled int
	// Nonlocal says that net.ipv4.ip_nonlocal_bind or net.ipv6.ip_nonlocal_bind, that of the
	// address's family, is set.
	Nonlocal bool
}

// An AddressState says whether bind() takes an address.
type AddressState uint8

// The states.
const (
	AddressUnknown   AddressState = iota
	AddressUsable                 // bind() takes it
	AddressAbsent                 // no network device has it
	AddressDown                   // IPv6: its device is down
	AddressTentative              // IPv6 duplicate address detection is under way
	AddressDuplicate              // IPv6 duplicate address detection has failed
	IPv6Disabled                  // net.ipv6.conf.DEVICE.disable_ipv6; Device empty: of all
)
