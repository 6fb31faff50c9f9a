"""Conversations over WebRTC: media as RTP, messages over a data channel. Needs the extra `webrtc`."""
