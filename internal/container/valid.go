package container

import "strings"

const (
	idDigits = 64
	maxName  = 253 // DNS-1123 subdomain
)

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	digits = "0123456789"
)

func only(s, chars string) bool { return strings.Trim(s, chars) == "" }

func isHex(s string) bool    { return s != "" && only(s, digits+"abcdef") }
func isNumber(s string) bool { return s != "" && only(s, digits) }
func isID(s string) bool     { return len(s) == idDigits && isHex(s) }

// isKubeName: the name of a namespace or of a container in a pod, a DNS-1123 label.
func isKubeName(s string) bool { return len(s) <= 63 && !strings.Contains(s, ".") && isPod(s) }

// isPod: the name of a pod, a DNS-1123 subdomain.
func isPod(s string) bool { return s != "" && len(s) <= maxName && only(s, lower+digits+"-.") }

// isUID: that of a static pod has no hyphens.
func isUID(s string) bool { return len(s) >= 32 && len(s) <= 36 && only(s, digits+"abcdef-") }

// isName: the name of a container in Docker or Podman.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && only(s, lower+strings.ToUpper(lower)+digits+"_.-")
}
