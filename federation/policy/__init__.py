"""What a hub shares and who may read data: rules on plain values, the same at the hub and in the control plane.

Pure but for reading a file: no clock, no network, no protobuf. Deliberately not here: who somebody is
(`federation/identity`) and where work is placed (`federation/scheduling`). Read next: `share.py`.
"""
